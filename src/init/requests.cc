// The part of the supervisor that talks to agents.
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "init/spawn.h"
#include "init/supervisor.h"
#include "init/util.h"

namespace baton::init {
namespace {

void refuse(Reply* reply, Code code, int error_number, const char* text) {
  reply->code = code;
  reply->error_number = error_number;
  snprintf(reply->text, sizeof reply->text, "%s", text);
}

// The first descriptor that came with a message; any others are closed.
int take_fd(msghdr* message) {
  int taken = -1;
  for (cmsghdr* header = CMSG_FIRSTHDR(message); header != nullptr;
       header = CMSG_NXTHDR(message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    const std::size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < count; ++i) {
      int fd = -1;
      memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof fd);
      if (taken < 0)
        taken = fd;
      else
        close(fd);
    }
  }
  return taken;
}

}  // namespace

void Supervisor::accept_connection() {
  const int fd = accept4(kControlFd, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (fd < 0) return;
  for (Connection& connection : connections_) {
    if (connection.fd >= 0) continue;
    connection = {fd, false, false};
    return;
  }
  close(fd);
}

void Supervisor::close_connection(Connection& connection) {
  close(connection.fd);
  const bool die = connection.die_with_it;
  connection = {};
  if (die) end("fenced", 128 + SIGKILL);
}

void Supervisor::serve(Connection& connection) {
  Request request;
  iovec data{&request, sizeof request};
  alignas(cmsghdr) char control[CMSG_SPACE(4 * sizeof(int))];
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  const ssize_t size = recvmsg(connection.fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (size < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (size <= 0) return close_connection(connection);
  const int fd = take_fd(&message);
  if (size != sizeof request || request.magic != kMagic || (message.msg_flags & MSG_TRUNC) != 0) {
    if (fd >= 0) close(fd);
    return close_connection(connection);
  }
  Reply reply;
  const bool reply_now = execute(connection, request, fd, &reply);
  if (fd >= 0) close(fd);
  if (reply_now) answer(connection, reply);
}

void Supervisor::answer(Connection& connection, const Reply& reply, const int* fds,
                        std::size_t fd_count) {
  iovec data{const_cast<Reply*>(&reply), sizeof reply};
  alignas(cmsghdr) char control[CMSG_SPACE(2 * sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  if (fd_count > 0) {
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(fd_count * sizeof(int));
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(fd_count * sizeof(int));
    memcpy(CMSG_DATA(header), fds, fd_count * sizeof(int));
  }
  // Who does not read its answer loses it; pid 1 waits for nobody.
  if (sendmsg(connection.fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
    log_line("answer: %s", strerror(errno));
  for (std::size_t i = 0; i < fd_count; ++i) close(fds[i]);
}

// True when `reply` shall be sent now.
bool Supervisor::execute(Connection& connection, const Request& request, int fd, Reply* reply) {
  switch (request.op) {
    case Op::Status:
      reply->values[0] = root_;
      reply->values[1] = command_;
      reply->values[2] = lease_deadline_boot_ns_;
      return true;
    case Op::Start: return start(connection, fd, reply);
    case Op::Unharmed: criu_was_killed_ = false; return true;
    case Op::LaunchCriu: launch_criu(connection, request); return false;
    case Op::SetLease:
      if (request.a < 0 || !set_lease(request.a))
        refuse(reply, Code::InvalidArgument, 0, "not a valid deadline");
      return true;
    case Op::DieWithAgent:
      connection.die_with_it = request.a != 0;
      if (!connection.die_with_it) let_go(connection);
      return true;
    case Op::Keep: return keep(connection, fd, reply);
    case Op::Signal: return signal_command(static_cast<int>(request.a), reply);
    case Op::Kill: end("killed", 128 + SIGKILL);
    case Op::AdoptRestored:
      return adopt_restored(connection, static_cast<pid_t>(request.a),
                            static_cast<pid_t>(request.b), reply);
  }
  refuse(reply, Code::InvalidArgument, 0, "unknown request");
  return true;
}

// So that what hangs on it outlives the agent: until this process has ended everything.
bool Supervisor::keep(const Connection& connection, int fd, Reply* reply) {
  if (fd < 0 || !connection.die_with_it) {
    refuse(reply, Code::InvalidArgument, 0, "nothing to keep, or not armed");
    return true;
  }
  for (Kept& kept : kept_) {
    if (kept.connection != nullptr) continue;
    const int own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (own < 0)
      refuse(reply, Code::Internal, errno, "keep a descriptor");
    else
      kept = {&connection, own};
    return true;
  }
  refuse(reply, Code::Internal, 0, "too many descriptors to keep");
  return true;
}

void Supervisor::let_go(const Connection& connection) {
  for (Kept& kept : kept_) {
    if (kept.connection != &connection) continue;
    close(kept.fd);
    kept = {};
  }
}

bool Supervisor::start(Connection& connection, int command_fd, Reply* reply) {
  if (root_ != 0) {
    refuse(reply, Code::FailedPrecondition, 0, "a command runs in this sandbox already");
    return true;
  }
  if (command_fd < 0) {
    refuse(reply, Code::InvalidArgument, 0, "no command was given");
    return true;
  }
  const char* what = nullptr;
  const pid_t pid = spawn_root(command_fd, &start_fd_, &what);
  if (pid < 0) {
    refuse(reply, Code::Internal, errno, what);
    return true;
  }
  root_ = pid;
  connection.waits_for_start = true;
  return false;
}

void Supervisor::start_progressed() {
  StartRecord record;
  const ssize_t size = read(start_fd_, &record, sizeof record);
  if (size < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (size == sizeof record && record.code == Code::Ok) {
    command_ = record.command_pid;
    // Opened while root can't have reaped it unnoticed, so it never names another process.
    command_pidfd_ = static_cast<int>(syscall(SYS_pidfd_open, command_, 0));
    return start_progressed();
  }
  if (size == 0) record = {};
  if (size == 0 && command_ == 0) {
    record.code = Code::Internal;
    strcpy(record.text, "the root of the tree ended before it started the command");
  }
  close(start_fd_);
  start_fd_ = -1;
  finish_start(record);
}

void Supervisor::finish_start(const StartRecord& record) {
  Reply reply;
  if (record.code != Code::Ok) {
    refuse(&reply, record.code, record.error_number, record.text);
    root_ = command_ = 0;
    if (command_pidfd_ >= 0) close(command_pidfd_);
    command_pidfd_ = -1;
  }
  reply.values[0] = root_;
  reply.values[1] = command_;
  for (Connection& connection : connections_) {
    if (!connection.waits_for_start) continue;
    connection.waits_for_start = false;
    answer(connection, reply);
  }
}

void Supervisor::launch_criu(Connection& connection, const Request& request) {
  Reply reply;
  pid_t* slot = nullptr;
  bool first = true;
  for (pid_t& pid : criu_) {
    if (pid == 0) slot = &pid;
    if (pid != 0) first = false;
  }
  if (slot == nullptr) {
    refuse(&reply, Code::FailedPrecondition, 0, "too many CRIU workers");
    return answer(connection, reply);
  }
  if (first) {
    const ssize_t size =
        pread(last_pid_fd_, last_pid_before_criu_, sizeof last_pid_before_criu_ - 1, 0);
    last_pid_before_criu_[size > 0 ? size : 0] = 0;
  }
  char last_pid[32];
  const int length = snprintf(last_pid, sizeof last_pid, "%lld", static_cast<long long>(request.a));
  if (pwrite(last_pid_fd_, last_pid, static_cast<std::size_t>(length), 0) < 0)
    log_line("ns_last_pid <- %s: %s", last_pid, strerror(errno));
  int fds[2] = {-1, -1};
  const pid_t pid =
      spawn_criu((request.b & 1) != 0, static_cast<Ipc>(request.b & ~1), root_, &fds[0], &fds[1]);
  if (pid < 0) {
    refuse(&reply, Code::Internal, errno, "start CRIU");
    return answer(connection, reply);
  }
  *slot = pid;
  criu_was_killed_ = false;
  answer(connection, reply, fds, 2);
}

// CRIU's pids come from the top of the range. Once the last worker is gone, the job's next ones
// continue from where they were.
void Supervisor::criu_ended(pid_t pid, int status) {
  bool was_criu = false, others = false;
  for (pid_t& criu : criu_) {
    if (criu == pid) {
      was_criu = true;
      criu = 0;
    }
    others = others || criu != 0;
  }
  // SIGTERM is for one that has answered and does not exit.
  if (was_criu && WIFSIGNALED(status) && WTERMSIG(status) != SIGTERM) criu_was_killed_ = true;
  if (!was_criu || others || last_pid_before_criu_[0] == 0) return;
  if (pwrite(last_pid_fd_, last_pid_before_criu_, strlen(last_pid_before_criu_), 0) < 0)
    log_line("ns_last_pid <- %s: %s", last_pid_before_criu_, strerror(errno));
}

bool Supervisor::adopt_restored(Connection& connection, pid_t root, pid_t command, Reply* reply) {
  if (root_ != 0) {
    refuse(reply, Code::FailedPrecondition, 0, "a command runs in this sandbox already");
    return true;
  }
  if (root <= 1 || command <= 0) {
    refuse(reply, Code::InvalidArgument, 0, "not a valid pid");
    return true;
  }
  for (const Exit& exit : exits_) {
    if (exit.pid != root) continue;
    answer(connection, *reply);
    root_ended(exit.status);
  }
  if (kill(root, 0) != 0) {
    refuse(reply, Code::NotFound, 0, "no such process was restored");
    return true;
  }
  root_ = root;
  command_ = command;
  command_pidfd_ = static_cast<int>(syscall(SYS_pidfd_open, command, 0));
  return true;
}

bool Supervisor::signal_command(int number, Reply* reply) {
  if (number < 1 || number > 64) {
    refuse(reply, Code::InvalidArgument, 0, "not a valid signal number");
  } else if (command_pidfd_ < 0 ||
             syscall(SYS_pidfd_send_signal, command_pidfd_, number, nullptr, 0) != 0) {
    refuse(reply, Code::FailedPrecondition, 0,
           command_ == 0 ? "no command runs yet" : "the command has ended");
  }
  return true;
}

}  // namespace baton::init
