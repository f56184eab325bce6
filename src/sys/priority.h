// Which threads go first, and which wait. All of it is best effort.
#pragma once

#include <pthread.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace baton::sys {

// Real-time priorities: a lease comes before a freeze.
constexpr int kHasty = 1, kLease = 2;

// A busy node must not lose its lease for want of a time slice. Of the calling thread, and not of
// what it starts.
inline void raise_thread_priority() {
  sched_param parameters{};
  parameters.sched_priority = kLease;
  if (::sched_setscheduler(0, SCHED_RR | SCHED_RESET_ON_FORK, &parameters) == 0) return;
  ::setpriority(PRIO_PROCESS, static_cast<id_t>(::syscall(SYS_gettid)), -10);
}

// For the calling thread, when a program waits for what it does at times: it gets a processor
// before most others.
inline void prefer_thread() {
  ::setpriority(PRIO_PROCESS, static_cast<id_t>(::syscall(SYS_gettid)), -10);
}

// A thread, and what it starts, gets what others leave of the processors: for work that nobody
// waits for. Not SCHED_IDLE: it may hold a lock that somebody does wait for.
inline void lower_priority_of(pid_t thread) {
  ::setpriority(PRIO_PROCESS, static_cast<id_t>(thread), 19);
}

// The calling thread gets a processor and the disk when nobody else wants them.
inline void work_behind_others() {
  lower_priority_of(0);
  constexpr int kThisThread = 1, kIdleClass = 3 << 13;  // linux/ioprio.h
  ::syscall(SYS_ioprio_set, kThisThread, 0, kIdleClass);
}

// The thread does not wait for a processor behind what else the node runs.
inline bool raise_to_hasty(pid_t thread) {
  sched_param parameters{};
  parameters.sched_priority = kHasty;
  return ::sched_setscheduler(thread, SCHED_RR | SCHED_RESET_ON_FORK, &parameters) == 0;
}
// One of this process that was not joined yet; it may have ended.
inline bool raise_to_hasty(pthread_t thread) {
  sched_param parameters{};
  parameters.sched_priority = kHasty;
  return ::pthread_setschedparam(thread, SCHED_RR | SCHED_RESET_ON_FORK, &parameters) == 0;
}

// While it lasts, the calling thread and process `other` don't wait for a processor behind what
// else the node runs. For work that a job stands still for; not for what takes seconds.
class HastyWork {
 public:
  explicit HastyWork(pid_t other) : policy_(::sched_getscheduler(0)) {
    if (policy_ != SCHED_OTHER) return;
    raised_ = raise_to_hasty(::gettid());
    if (!raised_ || other <= 0 || raise_to_hasty(other)) return;
    // Where the other may not, this thread's share of real time is for leases alone.
    lower();
    raised_ = false;
  }
  ~HastyWork() {
    if (raised_) lower();
  }
  HastyWork(const HastyWork&) = delete;
  HastyWork& operator=(const HastyWork&) = delete;

  bool is_hasty() const { return raised_; }

 private:
  void lower() {
    sched_param parameters{};
    ::sched_setscheduler(0, policy_, &parameters);
  }

  int policy_;
  bool raised_ = false;
};

}  // namespace baton::sys
