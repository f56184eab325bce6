#include "sys/process.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <sstream>

#include "sys/file.h"

namespace baton::sys {

Result<PidFd> PidFd::open(pid_t pid) {
  Fd fd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (fd.valid()) return PidFd(std::move(fd));
  const std::string what = fmt::format("process {}", pid);
  if (errno == ESRCH) return fail(ErrorCode::NotFound, what + " does not exist");
  return fail_errno(what);
}

Status PidFd::signal(int number) const {
  if (::syscall(SYS_pidfd_send_signal, fd_.get(), number, nullptr, 0) == 0) return {};
  if (errno == ESRCH) return fail(ErrorCode::NotFound, "the process has ended");
  return fail_errno(fmt::format("send signal {}", number));
}

bool PidFd::wait_ended(std::optional<std::chrono::milliseconds> timeout) const {
  const auto end =
      std::chrono::steady_clock::now() + timeout.value_or(std::chrono::milliseconds(0));
  for (;;) {
    int wait_ms = -1;
    if (timeout) {
      auto left =
          std::chrono::ceil<std::chrono::milliseconds>(end - std::chrono::steady_clock::now());
      wait_ms = static_cast<int>(std::max<std::int64_t>(left.count(), 0));
    }
    pollfd polled{fd_.get(), POLLIN, 0};
    int count = ::poll(&polled, 1, wait_ms);
    if (count > 0) return true;
    if (count == 0 && wait_ms >= 0) return false;
    if (count < 0 && errno != EINTR) return false;
  }
}

void PidFd::reap() const {
  siginfo_t info{};
  ::waitid(static_cast<idtype_t>(P_PIDFD), static_cast<id_t>(fd_.get()), &info, WEXITED | WNOHANG);
}

namespace {

// The kernel's own layout: linux/arch/x86/include/uapi/asm/signal.h.
struct KernelSigaction {
  void (*handler)(int);
  unsigned long flags;
  void (*restorer)();
  unsigned long mask;
};

struct ChildStart {
  const char* program;
  char* const* argv;
  char* const* env;
  const std::vector<std::pair<int, int>>* fds;
  const std::vector<int>* cgroup_procs_fds;
  int error_number;
};

// Shares the parent's memory: nothing here may allocate, lock, or return.
int child_main(void* argument) {
  auto* start = static_cast<ChildStart*>(argument);
  // Not by libc's sigaction(): it refuses the two signals that libc keeps for itself, and a parent
  // may have ignored those as well.
  const KernelSigaction as_at_boot{};
  for (int number = 1; number < NSIG; ++number)
    ::syscall(SYS_rt_sigaction, number, &as_at_boot, nullptr, sizeof as_at_boot.mask);
  // First out of the way of each other's numbers, then to where they belong.
  constexpr int kMostFds = 16;
  int moved[kMostFds];
  int count = 0;
  for (const int fd : *start->cgroup_procs_fds)
    if (::write(fd, "0", 1) != 1) goto failed;
  for (const auto& [ours, theirs] : *start->fds) {
    if (count == kMostFds) goto failed;
    moved[count] = ::fcntl(ours, F_DUPFD_CLOEXEC, 64);
    if (moved[count++] < 0) goto failed;
  }
  count = 0;
  for (const auto& [ours, theirs] : *start->fds)
    if (::dup2(moved[count++], theirs) < 0) goto failed;
  {
    sigset_t none;
    sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
  }
  // What we hurry with is not what it does. (The kernel says 20 less the niceness.)
  if (::syscall(SYS_getpriority, PRIO_PROCESS, 0) > 20) ::setpriority(PRIO_PROCESS, 0, 0);
  ::execve(start->program, start->argv, start->env);
failed:
  start->error_number = errno;
  ::_exit(127);
}

std::vector<char*> pointers(const std::vector<std::string>& strings) {
  std::vector<char*> result;
  for (const std::string& string : strings) result.push_back(const_cast<char*>(string.c_str()));
  result.push_back(nullptr);
  return result;
}

}  // namespace

Result<Spawned> spawn(const SpawnRequest& request) {
  constexpr std::size_t kStackBytes = 256 << 10;
  void* stack = ::mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
  if (stack == MAP_FAILED) return fail_errno("stack of a new process");
  const auto argv = pointers(request.argv);
  const auto env = pointers(request.env);
  ChildStart start{
      request.program.c_str(), argv.data(), env.data(), &request.fds, &request.cgroup_procs_fds, 0};
  // No handler of ours may run in the child while it shares our memory.
  sigset_t all, before;
  sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  int pidfd = -1;
  const int flags =
      static_cast<int>(request.clone_flags) | CLONE_VM | CLONE_VFORK | CLONE_PIDFD | SIGCHLD;
  const pid_t pid =
      ::clone(child_main, static_cast<char*>(stack) + kStackBytes, flags, &start, &pidfd);
  const int clone_error = errno;
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  ::munmap(stack, kStackBytes);
  if (pid < 0) return fail_errno(fmt::format("start {}", request.program), clone_error);
  Spawned spawned{pid, PidFd(Fd(pidfd))};
  if (start.error_number != 0) {
    spawned.pidfd.wait_ended(std::nullopt);
    spawned.pidfd.reap();
    return fail_errno(fmt::format("start {}", request.program), start.error_number);
  }
  return spawned;
}

Result<std::uint64_t> start_time_ticks(pid_t pid) {
  BATON_TRY(const std::string stat, read_file(fmt::format("/proc/{}/stat", pid)));
  // The name, in parentheses, may hold anything; 19 fields on comes the start time.
  const std::size_t name_end = stat.rfind(')');
  if (name_end == std::string::npos) return fail(ErrorCode::Internal, "unexpected /proc/PID/stat");
  std::istringstream fields(stat.substr(name_end + 1));
  std::string skipped;
  for (int i = 0; i < 19; ++i) fields >> skipped;
  std::uint64_t ticks = 0;
  if (!(fields >> ticks)) return fail(ErrorCode::Internal, "unexpected /proc/PID/stat");
  return ticks;
}

Result<std::vector<pid_t>> namespace_pids(pid_t pid) {
  BATON_TRY(std::string status, read_file(fmt::format("/proc/{}/status", pid)));
  const std::size_t at = status.find("\nNSpid:");
  if (at == std::string::npos) return fail(ErrorCode::Unfit, "the kernel shows no NSpid");
  std::istringstream line(status.substr(at + 7, status.find('\n', at + 1) - at - 7));
  std::vector<pid_t> pids;
  for (pid_t value; line >> value;) pids.push_back(value);
  return pids;
}

std::vector<pid_t> child_processes(pid_t pid) {
  std::vector<pid_t> children;
  std::error_code ignored;
  const std::string tasks = fmt::format("/proc/{}/task", pid);
  for (const auto& task : fs::directory_iterator(tasks, ignored)) {
    auto list = read_file(task.path() / "children");
    if (!list) continue;
    std::istringstream words(*list);
    for (pid_t child; words >> child;) children.push_back(child);
  }
  return children;
}

std::vector<pid_t> process_tree(pid_t root) {
  std::vector<pid_t> tree{root};
  for (std::size_t i = 0; i < tree.size(); ++i)
    for (const pid_t child : child_processes(tree[i])) tree.push_back(child);
  return tree;
}

pid_t pid_behind(const Fd& pidfd) {
  const auto info = read_file(fmt::format("/proc/self/fdinfo/{}", pidfd.get()));
  const auto at = info ? info->find("Pid:") : std::string::npos;
  return at == std::string::npos ? 0 : std::max(0, std::atoi(info->c_str() + at + 4));
}

}  // namespace baton::sys
