#include "init/supervisor.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <initializer_list>

#include "init/spawn.h"
#include "init/util.h"

namespace baton::init {
namespace {

constexpr char kExitAside[] = "exit.json.new";
constexpr std::size_t kExitBytes = 256;

int code_of_status(int status) {
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

}  // namespace

bool Supervisor::prepare(std::int64_t lease_deadline_boot_ns, Report* report) {
  const auto failed = [report](const char* what) {
    report->error_number = errno;
    snprintf(report->text, sizeof report->text, "%s", what);
    return false;
  };
  prctl(PR_SET_NAME, "baton-init");
  sigset_t children;
  sigemptyset(&children);
  sigaddset(&children, SIGCHLD);
  signal_fd_ = signalfd(-1, &children, SFD_CLOEXEC | SFD_NONBLOCK);
  if (signal_fd_ < 0) return failed("signalfd");
  timer_fd_ = timerfd_create(CLOCK_BOOTTIME, TFD_CLOEXEC | TFD_NONBLOCK);
  if (timer_fd_ < 0 || !set_lease(lease_deadline_boot_ns)) return failed("the lease's timer");
  // The space is taken now, so that a disk that is full later can't swallow the exit.
  exit_fd_ = openat(kDirectoryFd, kExitAside, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  char blank[kExitBytes];
  memset(blank, ' ', sizeof blank);
  if (exit_fd_ < 0 || write(exit_fd_, blank, sizeof blank) != sizeof blank)
    return failed("write exit.json");
  last_pid_fd_ = open("/proc/sys/kernel/ns_last_pid", O_RDWR | O_CLOEXEC);
  if (last_pid_fd_ < 0) return failed("open ns_last_pid");
  for (const int fd : {kDirectoryFd, kControlFd, kReportFd}) fcntl(fd, F_SETFD, FD_CLOEXEC);
  fcntl(kControlFd, F_SETFL, fcntl(kControlFd, F_GETFL) | O_NONBLOCK);
  if (listen(kControlFd, 64) != 0) return failed("listen on control.sock");
  return true;
}

void Supervisor::run() {
  for (;;) {
    pollfd polled[4 + kMostConnections];
    polled[0] = {timer_fd_, POLLIN, 0};
    polled[1] = {signal_fd_, POLLIN, 0};
    polled[2] = {kControlFd, POLLIN, 0};
    polled[3] = {start_fd_, POLLIN, 0};
    for (std::size_t i = 0; i < kMostConnections; ++i)
      polled[4 + i] = {connections_[i].fd, POLLIN, 0};
    if (poll(polled, 4 + kMostConnections, -1) < 0) continue;

    end_with_lease();
    if (polled[3].revents != 0) start_progressed();
    if (polled[1].revents != 0) reap();
    for (std::size_t i = 0; i < kMostConnections; ++i)
      if (polled[4 + i].revents != 0) serve(connections_[i]);
    if (polled[2].revents != 0) accept_connection();
  }
}

void Supervisor::end_with_lease() {
  std::uint64_t expirations = 0;
  if (read(timer_fd_, &expirations, sizeof expirations) > 0) end("fenced", 128 + SIGKILL);
}

// A lease that has run out is not renewed.
bool Supervisor::set_lease(std::int64_t deadline_boot_ns) {
  end_with_lease();
  itimerspec when{};
  when.it_value.tv_sec = deadline_boot_ns / 1'000'000'000;
  when.it_value.tv_nsec = deadline_boot_ns % 1'000'000'000;
  if (timerfd_settime(timer_fd_, TFD_TIMER_ABSTIME, &when, nullptr) != 0) return false;
  lease_deadline_boot_ns_ = deadline_boot_ns;
  return true;
}

void Supervisor::reap() {
  signalfd_siginfo ignored[8];
  while (read(signal_fd_, ignored, sizeof ignored) > 0) {
  }
  // What root said before it ended must be known before its end is judged.
  if (start_fd_ >= 0) start_progressed();
  bool ended = false;
  int root_status = 0;
  for (;;) {
    int status = 0;
    const pid_t pid = waitpid(-1, &status, WNOHANG | __WALL);
    if (pid <= 0) break;
    criu_ended(pid, status);
    if (pid == root_ && start_fd_ < 0) {
      ended = true;
      root_status = status;
    }
    exits_[next_exit_++ % kRememberedExits] = {pid, status};
  }
  // Last: when CRIU was killed, which may be why the root ended, that has to be known by now.
  if (ended) root_ended(root_status);
}

void Supervisor::root_ended(int status) {
  end(criu_was_killed_ ? "harmed" : "exited", code_of_status(status));
}

void Supervisor::end(const char* kind, int code) {
  // CRIU dies with the rest: whoever sees that has to see why.
  prctl(PR_SET_NAME, kEndingName);
  // First of all nothing may run any more; what follows may block on a disk that hangs.
  kill(-1, SIGKILL);
  while (waitpid(-1, nullptr, __WALL) > 0 || errno == EINTR) {
  }
  write_exit(kind, code);
  _exit(0);
}

void Supervisor::write_exit(const char* kind, int code) {
  struct stat output {};
  fstatat(kDirectoryFd, "io/output", &output, 0);
  char text[kExitBytes];
  memset(text, ' ', sizeof text);
  const int used =
      snprintf(text, sizeof text, "{\"kind\":\"%s\",\"code\":%d,\"output_bytes\":%lld}", kind, code,
               static_cast<long long>(output.st_size));
  text[used] = '\n';
  if (pwrite(exit_fd_, text, sizeof text, 0) == sizeof text)
    renameat(kDirectoryFd, kExitAside, kDirectoryFd, "exit.json");
}

}  // namespace baton::init
