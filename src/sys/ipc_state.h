// What an ipc namespace holds, as a text that two of them can be compared by.
#pragma once

#include <sys/types.h>

#include <string>

#include "base/result.h"

namespace baton::sys {

// The System V objects (/proc/sysvipc) and the limits (/proc/sys/kernel/shm… and so on) of the ipc
// namespace that `pid` is in. By a thread made for it. NotFound: no such process.
Result<std::string> ipc_state(pid_t pid);
// The same of a namespace that was just made.
Result<std::string> fresh_ipc_state();

}  // namespace baton::sys
