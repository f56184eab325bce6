// Pid 1 of a sandbox once it is built: serves control.sock, reaps, and holds the lease's deadline.
#pragma once

#include <poll.h>
#include <sys/types.h>

#include <cstddef>
#include <cstdint>

#include "init/protocol.h"

namespace baton::init {

class Supervisor {
 public:
  // Everything that could fail later (descriptors, the space for exit.json) is had here.
  bool prepare(std::int64_t lease_deadline_boot_ns, Report* report);
  [[noreturn]] void run();

 private:
  static constexpr std::size_t kMostConnections = 64;
  static constexpr std::size_t kMostCriu = 8;
  static constexpr std::size_t kRememberedExits = 64;
  static constexpr std::size_t kMostKept = 768;  // below the usual limit of descriptors

  struct Connection {
    int fd = -1;
    bool die_with_it = false;
    bool waits_for_start = false;
  };
  struct Exit {
    pid_t pid = 0;
    int status = 0;
  };

  void accept_connection();
  void close_connection(Connection& connection);
  void serve(Connection& connection);
  bool keep(const Connection& connection, int fd, Reply* reply);
  void let_go(const Connection& connection);
  // Takes the reply's descriptors over.
  void answer(Connection& connection, const Reply& reply, const int* fds = nullptr,
              std::size_t fd_count = 0);
  bool execute(Connection& connection, const Request& request, int fd, Reply* reply);

  bool start(Connection& connection, int command_fd, Reply* reply);
  void start_progressed();
  void finish_start(const StartRecord& record);
  void launch_criu(Connection& connection, const Request& request);
  void criu_ended(pid_t pid, int status);
  bool adopt_restored(Connection& connection, pid_t root, pid_t command, Reply* reply);
  bool signal_command(int number, Reply* reply);
  bool set_lease(std::int64_t deadline_boot_ns);
  void end_with_lease();  // if it has run out

  void reap();
  [[noreturn]] void root_ended(int status);
  [[noreturn]] void end(const char* kind, int code);
  void write_exit(const char* kind, int code);

  int signal_fd_ = -1;
  int timer_fd_ = -1;
  int exit_fd_ = -1;
  int last_pid_fd_ = -1;
  std::int64_t lease_deadline_boot_ns_ = 0;
  Connection connections_[kMostConnections];

  int start_fd_ = -1;  // while root has not yet said whether the command runs
  pid_t root_ = 0;
  pid_t command_ = 0;
  int command_pidfd_ = -1;

  pid_t criu_[kMostCriu] = {};
  // A signal ended one, maybe in the middle of a call in the tree, and nobody has looked since.
  bool criu_was_killed_ = false;
  char last_pid_before_criu_[32] = {};
  // Children that ended before anyone said that they were the root of a restored tree.
  Exit exits_[kRememberedExits];
  std::size_t next_exit_ = 0;

  // Descriptors that agents left here: see Op::Keep.
  struct Kept {
    const Connection* connection = nullptr;
    int fd = -1;
  };
  Kept kept_[kMostKept];
};

}  // namespace baton::init
