// Scheduling of the threads that the lease depends on.
#pragma once

#include <pthread.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace baton::agent {

// A busy node must not lose its lease for want of a time slice. Best effort; of the calling thread,
// and not of what it starts.
inline void raise_thread_priority() {
  sched_param parameters{};
  parameters.sched_priority = 1;
  if (::sched_setscheduler(0, SCHED_RR | SCHED_RESET_ON_FORK, &parameters) == 0) return;
  ::setpriority(PRIO_PROCESS, static_cast<id_t>(::syscall(SYS_gettid)), -10);
}

// For the calling thread, when a program waits for what it does at times: it gets a processor
// before most others. Best effort.
inline void prefer_thread() {
  ::setpriority(PRIO_PROCESS, static_cast<id_t>(::syscall(SYS_gettid)), -10);
}

// A thread, and what it starts, gets what others leave of the processors: for work that nobody
// waits for. Not SCHED_IDLE: it may hold a lock that somebody does wait for.
inline void lower_priority_of(pid_t thread) {
  ::setpriority(PRIO_PROCESS, static_cast<id_t>(thread), 19);
}

// The thread does not wait for a processor behind what else the node runs. Best effort.
inline bool raise_to_hasty(pid_t thread) {
  sched_param parameters{};
  parameters.sched_priority = 1;
  return ::sched_setscheduler(thread, SCHED_RR | SCHED_RESET_ON_FORK, &parameters) == 0;
}
// One of this process that was not joined yet; it may have ended.
inline bool raise_to_hasty(pthread_t thread) {
  sched_param parameters{};
  parameters.sched_priority = 1;
  return ::pthread_setschedparam(thread, SCHED_RR | SCHED_RESET_ON_FORK, &parameters) == 0;
}

// While it lasts, the calling thread and process `other` don't wait for a processor behind what
// else the node runs. For work that a job stands still for; not for what takes seconds. Best
// effort.
class HastyWork {
 public:
  explicit HastyWork(pid_t other) : policy_(::sched_getscheduler(0)) {
    if (policy_ != SCHED_OTHER) return;
    raised_ = raise_to_hasty(0);
    if (raised_ && other > 0) raise_to_hasty(other);
  }
  ~HastyWork() {
    sched_param parameters{};
    if (raised_) ::sched_setscheduler(0, policy_, &parameters);
  }
  HastyWork(const HastyWork&) = delete;
  HastyWork& operator=(const HastyWork&) = delete;

 private:
  int policy_;
  bool raised_ = false;
};

}  // namespace baton::agent
