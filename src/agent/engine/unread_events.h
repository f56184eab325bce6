// Events that an inotify descriptor of the job holds and nobody has read yet. CRIU does not carry them.
// Internal to the engine.
#pragma once

#include <sys/types.h>

#include <utility>
#include <vector>

namespace baton::agent {

// `processes`: as Sandbox::processes(). Of descriptors that can't be looked at: false.
bool has_unread_inotify_events(const std::vector<std::pair<pid_t, pid_t>>& processes);

}  // namespace baton::agent
