// Attributes of processes and threads that CRIU does not carry to a restored process, as far as
// another process can read them and set them again.
//
// Not among them, since the kernel lets only the process itself set them: personality, memory
// policy, KSM and machine-check policy.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"

namespace baton::sys {

struct ThreadAttributes {
  pid_t inner_tid = 0;    // in the process's own pid namespace
  std::vector<int> cpus;  // it may run on these, ascending; empty: nothing is known
  int io_priority = 0;    // as ioprio_get(2) has it: class << 13 | level; 0: none set
  std::uint64_t timer_slack_ns = 0;
};

struct ProcessAttributes {
  pid_t inner_pid = 0;
  std::string coredump_filter;    // hexadecimal, as in /proc; empty: the process has no memory
  std::uint32_t personality = 0;  // for the record
  std::vector<ThreadAttributes> threads;
};

// `pid` in the caller's pid namespace. Threads that end meanwhile are left out. NotFound: no such
// process.
Result<ProcessAttributes> read_process_attributes(pid_t pid);

// Sets what differs. Processors that are not in `available_cpus` are left out; if none is left,
// the thread keeps what it has. Attributes that are refused (a higher I/O priority needs
// privileges that a container may lack) are returned as text, one line each.
std::vector<std::string> apply_process_attributes(pid_t pid, const ProcessAttributes& attributes,
                                                  const std::vector<int>& available_cpus);

// The processors that a process or thread may run on, ascending.
Result<std::vector<int>> allowed_cpus(pid_t pid);

// The ids of a process's threads, in the caller's pid namespace.
std::vector<pid_t> thread_ids(pid_t pid);

// The id of a thread or process in its innermost pid namespace. NotFound: it is gone.
Result<pid_t> inner_id(pid_t pid);

// The value of a field of /proc/PID/status ("SigBlk", "State"), without leading blanks.
Result<std::string> status_field(pid_t pid, std::string_view field);

}  // namespace baton::sys
