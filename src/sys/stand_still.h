// All threads of another process, standing still.
#pragma once

#include <sys/types.h>

#include <functional>

#include "base/result.h"

namespace baton::sys {

// Runs `work` while no thread of process `pid` does anything, then lets them go on as they were;
// system calls in which they slept go on, or return as after a stop by a signal (signal(7)).
// Processes that share its memory without being its threads (vfork) are not stopped. Some ten
// microseconds per thread, and as long as a thread that is ready to run waits for a processor.
//
// Unavailable: it can't be stopped now, `work` was not called; the message says why (it is traced,
// a thread waits inside the kernel). NotFound: it ended. Else what `work` returned.
//
// Any thread may call it; `work` runs in a thread of its own, whose end lets the process go
// whatever happens.
Status while_it_stands_still(pid_t pid, const std::function<Status()>& work);

}  // namespace baton::sys
