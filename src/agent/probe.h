// Whether a CRIU works on the running kernel: tried, not guessed.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "base/result.h"

namespace baton::agent {

struct ProbeReport {
  bool ok = false;
  std::string why;  // when not ok: one line for a person
  std::string kernel;
  std::string criu_version;  // empty when CRIU could not even be started
  std::string tier;          // how memory is dumped: "tracked", else "soft-dirty", else "full"
  // What was seen to work: "threads", "tcp", and "other-users" (programs that don't run as root).
  // And "soft-dirty", where CRIU says that it can (EngineOptions::soft_dirty).
  std::vector<std::string> abilities;
};

bool has_soft_dirty(const ProbeReport& report);

std::string to_json(const ProbeReport& report);

// Checkpoints, kills and restores a small two-thread process with inet sockets in real sandboxes,
// through the real engine, and looks whether it goes on; about a second. `prefix`: as made by
// scripts/provision-criu. `work`: where to put the sandboxes, not on an overlay; empty: a temporary
// directory is found. Leaves nothing behind. Needs root (not ok otherwise). An error is returned
// only when nothing could be found out (no directory to work in).
Result<ProbeReport> probe_criu(const std::filesystem::path& prefix,
                               const std::filesystem::path& work = {});

// The answer that was kept in the prefix for this kernel, if it was "works"; else that of a new
// probe, which is kept if the prefix can be written.
Result<ProbeReport> recall_or_probe_criu(const std::filesystem::path& prefix,
                                         const std::filesystem::path& work = {});

}  // namespace baton::agent
