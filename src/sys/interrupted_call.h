// System calls that a stop by a tracer interrupts. Header-only: a part of it is loaded into CRIU.
//
// The kernel continues an interrupted poll() or sleep by itself (ERESTART_RESTARTBLOCK), from what
// it remembers in the task, by a call that no longer says what it continues. The next stop that
// makes the kernel forget (CRIU's own calls in the task do) leaves nothing to go on with.
//
// Where the same call, made again with the same arguments, does the same, it is one of the plainly
// restartable ones as well (ERESTARTNOHAND), which the kernel and CRIU make again:
// - poll() without a time limit;
// - waits for a futex until a point in time (sem_timedwait(3));
// - sleeps whose remaining time the kernel has put where it was asked for it and takes it from
//   (sleep(3) and C++'s sleep_for call them so).
// Others would wait for too long, and a checkpoint per second could keep them from ever ending.
#pragma once

#if defined(__x86_64__)

#include <linux/futex.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <sys/user.h>

namespace baton::sys {

inline bool same_when_made_again(const user_regs_struct& registers) {
  switch (registers.orig_rax) {
    case SYS_poll: return static_cast<int32_t>(registers.rdx) < 0;
    case SYS_futex:
      return (registers.rsi & static_cast<unsigned long>(FUTEX_CMD_MASK)) == FUTEX_WAIT_BITSET;
    case SYS_nanosleep: return registers.rsi != 0 && registers.rsi == registers.rdi;
    case SYS_clock_nanosleep: return registers.r10 != 0 && registers.r10 == registers.rdx;
    default: return false;
  }
}

// `registers`: of a thread that stands in a tracer's stop. Whether they were changed.
inline bool let_it_be_made_again(user_regs_struct& registers) {
  // include/linux/errno.h: never seen by programs, but by their tracers.
  constexpr long restart_no_handler = -514;
  constexpr long restart_block = -516;
  constexpr unsigned long code_segment_64 = 0x33;
  if (registers.cs != code_segment_64 || static_cast<long>(registers.rax) != restart_block ||
      !same_when_made_again(registers))
    return false;
  registers.rax = static_cast<unsigned long>(restart_no_handler);
  return true;
}

}  // namespace baton::sys

#endif
