// Scheduling of the threads that the lease depends on.
#pragma once

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

}  // namespace baton::agent
