// Processes of this node: handles that can't name another process by accident, what /proc says of
// them, and starting one from a program that has threads.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/result.h"

namespace baton::sys {

// A process, by pidfd. Stays valid, and means the same process, after that has ended.
class PidFd {
 public:
  PidFd() = default;
  explicit PidFd(Fd fd) : fd_(std::move(fd)) {}
  // NotFound: no such process.
  static Result<PidFd> open(pid_t pid);

  int get() const { return fd_.get(); }
  bool valid() const { return fd_.valid(); }
  // NotFound: it has ended.
  Status signal(int number) const;
  // True when it has ended within that time; without a time, waits for ever.
  bool wait_ended(std::optional<std::chrono::milliseconds> timeout) const;
  // Takes the exit status of an ended child, so that no zombie stays. Nothing happens when it is
  // another process's child or still runs.
  void reap() const;

 private:
  Fd fd_;
};

// What to start, and where. Descriptors are given as (ours, the child's number).
struct SpawnRequest {
  std::string program;
  std::vector<std::string> argv;
  std::vector<std::string> env;
  std::vector<std::pair<int, int>> fds;  // all others that aren't close-on-exec are inherited too
  std::uint64_t clone_flags = 0;         // CLONE_NEW…
  std::vector<int> cgroup_procs_fds;     // of Cgroup::open_procs_files(): joined before the exec
};

struct Spawned {
  pid_t pid = 0;
  PidFd pidfd;
};

// Starts a program straight from the calling thread (clone with CLONE_VM|CLONE_VFORK into exec),
// so that it is safe however many threads and locks there are. Signals are unblocked and default,
// and a priority above the usual one is ours alone.
Result<Spawned> spawn(const SpawnRequest& request);

// When it was started, in clock ticks after boot: with the pid, this names a process for good.
Result<std::uint64_t> start_time_ticks(pid_t pid);
// The pids of a process, from this node's pid namespace to its innermost one (NSpid).
Result<std::vector<pid_t>> namespace_pids(pid_t pid);
// A process and all its descendants, parents first, as they were seen while walking.
// One that ends meanwhile is left out.
std::vector<pid_t> process_tree(pid_t root);
std::vector<pid_t> child_processes(pid_t pid);
// Whom a pidfd is of, as this process sees it. 0: it has ended, or is not to be seen from here.
pid_t pid_behind(const Fd& pidfd);

}  // namespace baton::sys
