// A command on its way into a sandbox.
#pragma once

#include "agent/sandbox.h"
#include "base/fd.h"

namespace baton::agent {

// The command as baton-init reads it, in memory. InvalidArgument: it can't be passed to exec(2).
Result<Fd> pack_command(const CommandSpec& command);

// A pid after which several hundred in a row are neither in use in the sandbox nor in `keep_free`,
// as near to the top of the range as can be.
Result<pid_t> free_pid_window(pid_t init_pid, const std::vector<pid_t>& keep_free);

}  // namespace baton::agent
