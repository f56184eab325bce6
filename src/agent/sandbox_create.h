// The steps that make a sandbox and unmake it.
#pragma once

#include "agent/sandbox_state.h"
#include "sys/process.h"

namespace baton::agent {

inline constexpr char kExitFile[] = "exit.json";

struct CreatedSandbox {
  SandboxState state;
  sys::Spawned init;
};

// On error nothing is left behind.
Result<CreatedSandbox> create_sandbox(const SandboxSpec& spec);
// Ends it and removes all of it.
void discard(const SandboxState& state, const sys::PidFd& init);

// A handle to pid 1 by what create_sandbox() wrote down of it, whether or not it still listens.
// NotFound: it has ended, or was never started.
Result<sys::PidFd> recorded_init(const std::filesystem::path& directory);

// For a pid 1 that was killed before it could say so itself.
Status write_killed_exit(const std::filesystem::path& directory);

}  // namespace baton::agent
