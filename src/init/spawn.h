// What pid 1 starts: the root of the tree and CRIU, both without pid 1's priority and descriptors.
#pragma once

#include <sys/types.h>

#include "init/protocol.h"

namespace baton::init {

// Never to be killed for memory, never to wait for the processor: the deadline depends on it.
// Best effort, each of these may be forbidden here.
void raise_priority();

// How many descriptors from kFirstGroupFd on lead to control groups for what is started.
void set_child_groups(int count);

// Starts `baton-init root` in an ipc namespace of its own. *start_fd becomes the pipe that
// StartRecords come from. -1 with errno and `what` on failure.
pid_t spawn_root(int command_fd, int* start_fd, const char** what);

// Starts CRIU's service worker on a new socket. -1 with errno on failure.
pid_t spawn_criu(bool with_shim, Ipc ipc, pid_t root, int* socket_fd, int* pidfd);

}  // namespace baton::init
