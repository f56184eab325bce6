#include "sys/stand_still.h"

#include <sys/ptrace.h>

#include <cerrno>
#include <map>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "sys/interrupted_call.h"
#include "sys/process_attributes.h"
#include "sys/trace_stop.h"

namespace baton::sys {
namespace {

enum class State { Ended, InKernel, Other };
State state_of(pid_t tid) {
  auto state = status_field(tid, "State");
  if (!state || state->empty() || state->front() == 'Z' || state->front() == 'X')
    return State::Ended;
  return state->front() == 'D' ? State::InKernel : State::Other;
}

// What the thread waits in must be known by its number and arguments still when a checkpoint comes.
void keep_call(pid_t tid) {
#if defined(__x86_64__)
  user_regs_struct registers{};
  if (::ptrace(PTRACE_GETREGS, tid, 0, &registers) == 0 && let_it_be_made_again(registers))
    ::ptrace(PTRACE_SETREGS, tid, 0, &registers);
#else
  (void)tid;
#endif
}

// Belongs to the thread that uses it.
class Tracees {
 public:
  Tracees() = default;
  Tracees(const Tracees&) = delete;
  ~Tracees() {
    for (const auto& [tid, signal] : stopped_)
      ::ptrace(PTRACE_DETACH, tid, 0, static_cast<long>(signal));
  }

  Status stop_all_of(pid_t pid) {
    const std::int64_t began_ns = boot_time_ns();
    for (;;) {
      std::vector<pid_t> in_kernel, others;
      std::size_t standing = stopped_.size();
      for (pid_t tid : thread_ids(pid)) {
        if (stopped_.contains(tid)) continue;
        const State state = state_of(tid);
        if (state == State::InKernel) in_kernel.push_back(tid);
        if (state == State::Other) others.push_back(tid);
        if (state == State::Ended && tid == pid) ++standing;  // others than the leader vanish
      }
      // Not by the list, which breaks off where a thread ends just then.
      BATON_TRY(std::string threads, status_field(pid, "Threads"));
      if (threads == std::to_string(standing)) break;
      if (boot_time_ns() - began_ns > trace_stop_limit_ns)
        return fail(ErrorCode::Unavailable, "it begins threads too quickly");
      // What may take its time first, so that the others need not stand still meanwhile.
      BATON_CHECK(stop(in_kernel));
      BATON_CHECK(stop(others));
    }
    if (stopped_.empty()) return fail(ErrorCode::NotFound, "the process ended");
    return {};
  }

 private:
  Status stop(const std::vector<pid_t>& tids) {
    std::vector<pid_t> awaited;
    for (pid_t tid : tids) {
      if (::ptrace(PTRACE_SEIZE, tid, 0, 0) == 0) {
        awaited.push_back(tid);
        ::ptrace(PTRACE_INTERRUPT, tid, 0, 0);  // fails for one that has ended
      } else if (const int error = errno; state_of(tid) != State::Ended) {
        if (error == EPERM) return fail(ErrorCode::Unavailable, "it is traced already");
        return fail_errno("trace the process", error);
      }
    }
    for (pid_t tid : awaited) {
      auto stopped = wait_for_trace_stop(tid, trace_stop_limit_ns);
      // A signal that came first stops it as well, and is delivered when it is let go.
      if (stopped) {
        stopped_.emplace(tid, stopped->event ? 0 : stopped->signal);
        keep_call(tid);
      } else if (stopped.error().code() != ErrorCode::NotFound) {
        return fail(ErrorCode::Unavailable, stopped.error().message());
      }
    }
    return {};
  }

  std::map<pid_t, int> stopped_;  // and the signal with which to let it go on
};

}  // namespace

Status while_it_stands_still(pid_t pid, const std::function<Status()>& work) {
  Status outcome;
  std::thread([&] {
    outcome = [&]() -> Status {
      Tracees tracees;
      BATON_CHECK(tracees.stop_all_of(pid));
      return work();
    }();
  }).join();
  return outcome;
}

}  // namespace baton::sys
