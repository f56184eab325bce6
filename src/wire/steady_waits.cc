// Waits do not depend on the wall clock.
//
// Abseil 20220623, and with it all timers of gRPC (deadlines of calls, keep-alive, attempts to
// connect), waits on futexes for a time of the wall clock. When that is stepped back by an hour,
// the waits last an hour longer, and nothing in gRPC's interface ends them. Later versions wait for
// the steady clock, which is what this does: it takes the place of libc's syscall(), through which
// Abseil makes the call. (A wait that a signal breaks off and that Abseil begins anew is for the
// time as the clock was before.) CMakeLists.txt has it in every program that speaks gRPC.
#include <dlfcn.h>
#include <linux/futex.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

namespace {

using Syscall = long (*)(long, ...);

constexpr long kSecondNs = 1'000'000'000;
constexpr long kFarSeconds = 1'000'000'000;  // 30 years: nobody waits so long

Syscall next = nullptr;

// Before main(), or with the first call where that comes earlier still.
__attribute__((constructor)) void find_next() {
  if (next) return;
  next = reinterpret_cast<Syscall>(::dlsym(RTLD_NEXT, "syscall"));
  if (!next) ::abort();
}

bool waits_for_the_wall_clock(long number, int operation, long deadline) {
  return number == SYS_futex && (operation & FUTEX_CLOCK_REALTIME) != 0 && deadline != 0 &&
         (operation & FUTEX_CMD_MASK) == FUTEX_WAIT_BITSET;
}

timespec on_the_steady_clock(const timespec& deadline) {
  timespec wall{}, steady{};
  ::clock_gettime(CLOCK_REALTIME, &wall);
  ::clock_gettime(CLOCK_MONOTONIC, &steady);
  const long seconds = deadline.tv_sec - wall.tv_sec;
  if (seconds > kFarSeconds) return {steady.tv_sec + kFarSeconds, 0};
  timespec result{steady.tv_sec + seconds, steady.tv_nsec + deadline.tv_nsec - wall.tv_nsec};
  if (result.tv_nsec >= kSecondNs) ++result.tv_sec, result.tv_nsec -= kSecondNs;
  if (result.tv_nsec < 0) --result.tv_sec, result.tv_nsec += kSecondNs;
  return result.tv_sec < 0 ? timespec{} : result;
}

}  // namespace

// Six arguments always, whether the call has them or not, as libc's own does.
extern "C" __attribute__((no_sanitize("address"))) long syscall(long number, ...) noexcept {
  va_list list;
  va_start(list, number);
  const long a = va_arg(list, long), b = va_arg(list, long), c = va_arg(list, long),
             d = va_arg(list, long), e = va_arg(list, long), f = va_arg(list, long);
  va_end(list);
  find_next();
  if (!waits_for_the_wall_clock(number, static_cast<int>(b), d))
    return next(number, a, b, c, d, e, f);
  const timespec deadline = on_the_steady_clock(*reinterpret_cast<const timespec*>(d));
  return next(number, a, b & ~FUTEX_CLOCK_REALTIME, c, &deadline, e, f);
}
