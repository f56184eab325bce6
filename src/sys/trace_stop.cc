#include "sys/trace_stop.h"

#include <sys/ptrace.h>
#include <sys/wait.h>

#include <cerrno>
#include <csignal>
#include <ctime>

#include "base/clock.h"

namespace baton::sys {

std::unexpected<Error> trace_error(std::string_view what) {
  if (errno == ESRCH) return fail(ErrorCode::NotFound, "the process ended");
  return fail_errno(what);
}

Result<TraceStop> wait_for_trace_stop(pid_t tid, std::int64_t limit_ns) {
  constexpr long look_every_ns = 20'000;
  // There is no descriptor that tells of a stop, and waitpid has no time limit.
  const std::int64_t began_ns = boot_time_ns();
  int status = 0;
  for (;;) {
    pid_t got = ::waitpid(tid, &status, __WALL | WNOHANG);
    if (got == tid) break;
    if (got < 0) return trace_error("wait for the process");
    if (boot_time_ns() - began_ns > limit_ns)
      return fail(ErrorCode::Unfit, "it does not stop (it waits inside the kernel)");
    timespec pause{0, look_every_ns};
    ::nanosleep(&pause, nullptr);
  }
  if (!WIFSTOPPED(status)) return fail(ErrorCode::NotFound, "the process ended");
  return TraceStop{WSTOPSIG(status), status >> 16 == PTRACE_EVENT_STOP};
}

}  // namespace baton::sys
