// Part of the shim that is loaded into CRIU: system calls that a checkpoint interrupts go on.
//
// The kernel continues an interrupted poll() or sleep by itself (ERESTART_RESTARTBLOCK), from what
// it remembers in the task. CRIU's own calls in the task make it forget, and no image holds it, so
// CRIU lets such calls fail with EINTR: in the restored program, and after each checkpoint in the
// one that runs on. A program without signal handlers need not expect that; script(1) ends.
//
// Where the same call, made again with the same arguments, does the same, CRIU is told that it was
// one of the plainly restartable ones (ERESTARTNOHAND), which it and the kernel make again:
// - poll() without a time limit;
// - waits for a futex until a point in time (sem_timedwait(3));
// - sleeps whose remaining time the kernel has put where it was asked for it and takes it from
//   (sleep(3) and C++'s sleep_for call them so).
// Others would wait for too long, and a checkpoint per second could keep them from ever ending.

#include <errno.h>
#include <linux/futex.h>
#include <stdarg.h>
#include <stdint.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>

extern "C" long syscall(long number, ...);

namespace {

#if defined(__x86_64__)

// include/linux/errno.h: never seen by programs, but by their tracers.
constexpr long restart_no_handler = -514;
constexpr long restart_block = -516;
constexpr unsigned long general_registers = 1;  // NT_PRSTATUS
constexpr unsigned long code_segment_64 = 0x33;

bool same_when_made_again(const user_regs_struct& registers) {
  switch (registers.orig_rax) {
    case SYS_poll: return static_cast<int32_t>(registers.rdx) < 0;
    case SYS_futex:
      return (registers.rsi & static_cast<unsigned long>(FUTEX_CMD_MASK)) == FUTEX_WAIT_BITSET;
    case SYS_nanosleep: return registers.rsi != 0 && registers.rsi == registers.rdi;
    case SYS_clock_nanosleep: return registers.r10 != 0 && registers.r10 == registers.rdx;
    default: return false;
  }
}

void mend(user_regs_struct& registers) {
  if (registers.cs == code_segment_64 && static_cast<long>(registers.rax) == restart_block &&
      same_when_made_again(registers))
    registers.rax = static_cast<unsigned long>(restart_no_handler);
}

#endif

}  // namespace

extern "C" __attribute__((visibility("default"))) long ptrace(__ptrace_request request, ...) {
  va_list list;
  va_start(list, request);
  const long pid = va_arg(list, long);
  void* address = va_arg(list, void*);
  void* data = va_arg(list, void*);
  va_end(list);
  // The raw call puts a word that is peeked at there; libc's returns it.
  const bool peeks =
      request == PTRACE_PEEKTEXT || request == PTRACE_PEEKDATA || request == PTRACE_PEEKUSER;
  long word = 0;
  const long result = syscall(SYS_ptrace, static_cast<long>(request), static_cast<int32_t>(pid),
                              address, peeks ? &word : data);
  if (result < 0) return -1;
  if (peeks) {
    errno = 0;
    return word;
  }
#if defined(__x86_64__)
  if (request == PTRACE_GETREGS) mend(*static_cast<user_regs_struct*>(data));
  if (request == PTRACE_GETREGSET &&
      reinterpret_cast<unsigned long>(address) == general_registers) {
    const auto* set = static_cast<const iovec*>(data);
    if (set->iov_len == sizeof(user_regs_struct))
      mend(*static_cast<user_regs_struct*>(set->iov_base));
  }
#endif
  return result;
}
