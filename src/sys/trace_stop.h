// Waiting for threads that this one traces (ptrace) to stand still.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <limits>

#include "base/result.h"

namespace baton::sys {

// A tracee that does not stop within this time sits in the kernel (vfork, dead network disk).
constexpr std::int64_t trace_stop_limit_ns = 100'000'000;
constexpr std::int64_t no_trace_stop_limit_ns = std::numeric_limits<std::int64_t>::max();

struct TraceStop {
  int signal = 0;      // that is about to be delivered; SIGTRAP for a step
  bool event = false;  // stopped by PTRACE_INTERRUPT or by job control: there is no signal
};

// Must be called by the tracer. NotFound: the thread ended; Unfit: it did not stop in time. It
// can't be detached after either: the end of the tracing thread does it.
Result<TraceStop> wait_for_trace_stop(pid_t tid, std::int64_t limit_ns);

// The error of a ptrace call on a thread, from errno.
std::unexpected<Error> trace_error(std::string_view what);

}  // namespace baton::sys
