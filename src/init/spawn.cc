#include "init/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "init/util.h"

namespace baton::init {
namespace {

void write_proc(const char* path, const char* value) {
  const int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return;
  if (write(fd, value, strlen(value)) < 0) log_line("%s <- %s: %s", path, value, strerror(errno));
  close(fd);
}

char oom_score_before[16] = "0";
int child_group_count = 0;

bool enter_groups() {
  for (int i = 0; i < child_group_count; ++i)
    if (write(kFirstGroupFd + i, "0", 1) != 1) return false;
  return true;
}

// The child's side of raise_priority(). Locked memory is not inherited.
void usual_priority() {
  const sched_param none{};
  sched_setscheduler(0, SCHED_OTHER, &none);
  setpriority(PRIO_PROCESS, 0, 0);
  write_proc("/proc/self/oom_score_adj", oom_score_before);
}

pid_t fork_with(unsigned long flags, int* pidfd) {
  return static_cast<pid_t>(syscall(SYS_clone, flags | SIGCHLD, nullptr, pidfd, nullptr, nullptr));
}

bool open_output(int output) {
  const int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  return null >= 0 && output >= 0 && dup2(null, 0) == 0 && dup2(output, 1) == 1 &&
         dup2(output, 2) == 2;
}

[[noreturn]] void become_root(int command_fd, int start_fd) {
  usual_priority();
  int output = open(kOutputPath, O_WRONLY | O_APPEND | O_CLOEXEC);
  const bool grouped = enter_groups();
  // Above all targets first, so that no move overwrites what is still needed.
  const int command = fcntl(command_fd, F_DUPFD_CLOEXEC, 64);
  const int start = fcntl(start_fd, F_DUPFD_CLOEXEC, 64);
  start_fd = start;
  StartRecord record;
  if (grouped && open_output(output) && move_fd(command, kCommandFd) && move_fd(start, kStartFd)) {
    start_fd = kStartFd;
    close_range(kStartFd + 1, ~0U, 0);
    reset_signals();
    const char* const argv[] = {"baton-root", "root", nullptr};
    const char* const env[] = {nullptr};
    execve(kInitPath, const_cast<char* const*>(argv), const_cast<char* const*>(env));
  }
  record.code = Code::Internal;
  record.error_number = errno;
  strcpy(record.text, "start the root of the tree");
  if (write(start_fd, &record, sizeof record) < 0) _exit(126);
  _exit(127);
}

bool enter_ipc(Ipc ipc, pid_t root) {
  if (ipc == Ipc::Outside) return true;
  if (ipc == Ipc::Fresh) return unshare(CLONE_NEWIPC) == 0;
  char path[32];
  snprintf(path, sizeof path, "/proc/%d/ns/ipc", root);
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  return fd >= 0 && setns(fd, CLONE_NEWIPC) == 0;
}

[[noreturn]] void become_criu(bool with_shim, Ipc ipc, pid_t root, int socket_fd) {
  usual_priority();
  int log =
      openat(kDirectoryFd, "criu-stderr.log", O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  const int socket = fcntl(socket_fd, F_DUPFD_CLOEXEC, 64);
  if (!enter_groups() || !open_output(log) || !move_fd(socket, 3)) _exit(126);
  if (!enter_ipc(ipc, root)) {
    log_line("ipc namespace for CRIU: %s", strerror(errno));
    _exit(126);
  }
  close_range(4, ~0U, 0);
  reset_signals();
  setsid();
  const char* argv[10];
  std::size_t count = 0;
  argv[count++] = "/.baton/criu/lib/ld.so";
  argv[count++] = "--library-path";
  argv[count++] = "/.baton/criu/lib";
  if (with_shim) {
    argv[count++] = "--preload";
    argv[count++] = kShimPath;
  }
  argv[count++] = "/.baton/criu/bin/criu";
  argv[count++] = "swrk";
  argv[count++] = "3";
  argv[count] = nullptr;
  const char* const env[] = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                             nullptr};
  execve(argv[0], const_cast<char* const*>(argv), const_cast<char* const*>(env));
  log_line("%s: %s", argv[0], strerror(errno));
  _exit(127);
}

}  // namespace

void set_child_groups(int count) {
  child_group_count = count;
  for (int i = 0; i < count; ++i) fcntl(kFirstGroupFd + i, F_SETFD, FD_CLOEXEC);
}

void raise_priority() {
  if (mlockall(MCL_CURRENT | MCL_FUTURE) != 0) log_line("mlockall: %s", strerror(errno));
  setpriority(PRIO_PROCESS, 0, -20);
  sched_param lowest{};
  lowest.sched_priority = 1;
  if (sched_setscheduler(0, SCHED_RR | SCHED_RESET_ON_FORK, &lowest) != 0)
    log_line("real-time scheduling of the lease's deadline: %s", strerror(errno));
  const int fd = open("/proc/self/oom_score_adj", O_RDONLY | O_CLOEXEC);
  const ssize_t count = fd < 0 ? 0 : read(fd, oom_score_before, sizeof oom_score_before - 1);
  if (count > 0) oom_score_before[count] = 0;
  if (fd >= 0) close(fd);
  write_proc("/proc/self/oom_score_adj", "-1000");
}

pid_t spawn_root(int command_fd, int* start_fd, const char** what) {
  int pipe_fds[2];
  *what = "pipe";
  if (pipe2(pipe_fds, O_CLOEXEC | O_NONBLOCK) != 0) return -1;
  *what = "start the root of the tree";
  const pid_t pid = fork_with(CLONE_NEWIPC, nullptr);
  if (pid == 0) become_root(command_fd, pipe_fds[1]);
  close(pipe_fds[1]);
  if (pid < 0) {
    close(pipe_fds[0]);
    return -1;
  }
  *start_fd = pipe_fds[0];
  return pid;
}

pid_t spawn_criu(bool with_shim, Ipc ipc, pid_t root, int* socket_fd, int* pidfd) {
  int sockets[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) != 0) return -1;
  const pid_t pid = fork_with(CLONE_PIDFD, pidfd);
  if (pid == 0) become_criu(with_shim, ipc, root, sockets[1]);
  close(sockets[1]);
  if (pid < 0) {
    close(sockets[0]);
    return -1;
  }
  fcntl(*pidfd, F_SETFD, FD_CLOEXEC);
  *socket_fd = sockets[0];
  return pid;
}

}  // namespace baton::init
