// baton up: a whole cluster on one machine, each node in namespaces of its own.
//
//   up (a network namespace with a bridge)
//   ├─ controller
//   ├─ node-1: pid 1 of its own pid, mount, uts, ipc and network namespace
//   │  └─ agent, and the sandboxes of its jobs
//   └─ node-2 …
//
// Everything dies with `up`, also when that is killed: pid 1 of a node and the controller ask for
// SIGKILL at their parent's death, and the rest dies with its pid namespace. What can stay behind
// then (control groups, a temporary directory) is locked by a living `up`, and the next one
// removes whatever nobody locks.
#pragma once

#include <CLI/CLI.hpp>

namespace baton::up {

// Adds `up` and the hidden commands it starts itself with. Their exit code goes to `exit_code`.
void add_commands(CLI::App& app, int& exit_code);

}  // namespace baton::up
