#pragma once

namespace baton::init {

// Pid 1: builds the sandbox, then serves control.sock until the end. See protocol.h.
int sandbox_main(int group_count);

// The root of the tree: subreaper that starts the command, reaps, and ends with the command's
// code once every descendant has ended. Holds nothing but descriptors 0, 1 and 2.
int root_main();

// The command of the CRIU probe (agent/probe.h).
int probe_target_main();

}  // namespace baton::init
