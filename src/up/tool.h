// Running other programs from the single thread of `up`, and starting ourselves anew.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "sys/process.h"

namespace baton::up {

// Waits for it. An error carries the command and the end of what it printed on stderr.
// NotFound: no such program in PATH or the sbin directories.
Status run_tool(const std::vector<std::string>& command);

// This program with other arguments.
sys::SpawnRequest ourselves(const std::vector<std::string>& arguments);

// As waitpid: "exit code 3", "signal 9 (KILL)".
std::string describe_wait_status(int status);
// Reaps a child that has ended; its wait status.
int reap(pid_t pid);

}  // namespace baton::up
