// Part of the shim that is loaded into CRIU: system calls that a checkpoint interrupts go on.
//
// CRIU lets calls that the kernel would continue by itself fail with EINTR: in the restored
// program, whose images don't hold what the kernel remembered, and after each checkpoint in the one
// that runs on. A program without signal handlers need not expect that; script(1) ends. So CRIU is
// told that they are plainly restartable ones, where that is the same.

#include "sys/interrupted_call.h"

#include <errno.h>
#include <stdarg.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

extern "C" long syscall(long number, ...);

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
  constexpr unsigned long general_registers = 1;  // NT_PRSTATUS
  using baton::sys::let_it_be_made_again;
  if (request == PTRACE_GETREGS) let_it_be_made_again(*static_cast<user_regs_struct*>(data));
  if (request == PTRACE_GETREGSET &&
      reinterpret_cast<unsigned long>(address) == general_registers) {
    const auto* set = static_cast<const iovec*>(data);
    if (set->iov_len == sizeof(user_regs_struct))
      let_it_be_made_again(*static_cast<user_regs_struct*>(set->iov_base));
  }
#endif
  return result;
}
