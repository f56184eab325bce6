// What an incarnation's directory remembers of it from one agent process to the next.
#pragma once

#include <filesystem>
#include <string>

#include "agent/sandbox.h"
#include "agent/sandbox_layout.h"

namespace baton::agent {

struct SandboxState {
  SandboxSpec spec;
  SandboxLayout layout;
  std::string cgroup;  // "" when it has none
};

Status save_state(const SandboxState& state);
// NotFound: there is no such incarnation. Damaged: its spec.json can't be read.
Result<SandboxState> load_state(const std::filesystem::path& directory);

}  // namespace baton::agent
