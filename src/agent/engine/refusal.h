// Causes of a refused dump that CRIU's log does not name, found by looking at the job itself.
#pragma once

#include <sys/types.h>

#include <string>
#include <string_view>
#include <vector>

namespace baton::agent {

// A line for criu::explain_line(), or nothing if the log says all there is to say. The job runs
// on, so it is looked at as it is now. `processes`: as Sandbox::processes().
//   - An io_uring can't be passed over a socket, and CRIU says only that a passing failed.
//   - A POSIX message queue is on a mount of the kernel's, and CRIU says only that it finds none.
std::string find_refusal(std::string_view log,
                         const std::vector<std::pair<pid_t, pid_t>>& processes);

}  // namespace baton::agent
