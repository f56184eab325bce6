// System calls made in the name of another process.
#pragma once

#include <sys/types.h>

#include <cstdint>

#include "base/fd.h"
#include "base/result.h"

namespace baton::sys {

// Makes a userfaultfd inside process `pid` and moves it here: nothing of it stays in the process.
// One of its threads stands still for about 0.1 ms; its registers, signals, pending system call
// and restartable sequence are as before afterwards, also on error. A seccomp filter of the process
// is suspended for that thread meanwhile (PTRACE_O_SUSPEND_SECCOMP).
//
// NotFound: it ended. Unfit: it can't be done for this process; the message says why (another
// tracer, a 32-bit program, no free descriptor …).
//
// Any thread may call it; it works in a thread of its own, whose end lets the process go whatever
// happens.
Result<Fd> take_userfaultfd(pid_t pid);

// Closes descriptor `number` inside the process, as above.
Status close_descriptor_in(pid_t pid, int number);

}  // namespace baton::sys
