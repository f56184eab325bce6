#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <climits>

#include "init/modes.h"
#include "init/protocol.h"
#include "init/user.h"
#include "init/util.h"

namespace baton::init {
namespace {

struct Command {
  char** argv = nullptr;
  char** env = nullptr;
  std::size_t arg_count = 0;
  std::size_t env_count = 0;
  const char* workdir = "/";
  const char* user = "";
  bool stdin_data = false;
  unsigned long long capabilities = 0;
  bool new_privileges = false;
};

[[noreturn]] void give_up(Code code, int error_number, const char* what, const char* detail = "") {
  StartRecord record;
  record.command_pid = getpid();
  record.code = code;
  record.error_number = error_number;
  snprintf(record.text, sizeof record.text, "%s%s", what, detail);
  if (write(kStartFd, &record, sizeof record) < 0) _exit(126);
  _exit(127);
}

Code code_of(int error_number) {
  switch (error_number) {
    case ENOENT:
    case ENOTDIR: return Code::NotFound;
    case EACCES:
    case EPERM:
    case ENOEXEC:
    case ELOOP:
    case EISDIR:
    case ENAMETOOLONG:
    case E2BIG: return Code::InvalidArgument;
    default: return Code::Internal;
  }
}

void read_command(Command* command) {
  std::size_t size = 0;
  const char* data = map_file(kCommandFd, &size);
  if (data == nullptr) give_up(Code::Internal, errno, "read the command");
  // A record has at least two bytes and a verb before it; defaults add four variables.
  std::size_t most = size / 2 + 8;
  command->argv = static_cast<char**>(calloc(most, sizeof(char*)));
  command->env = static_cast<char**>(calloc(most, sizeof(char*)));
  if (command->argv == nullptr || command->env == nullptr)
    give_up(Code::Internal, errno, "read the command");
  Records records(data, size);
  while (const char* verb = records.next()) {
    const char* value = records.next();
    if (value == nullptr) break;
    if (strcmp(verb, "arg") == 0) command->argv[command->arg_count++] = const_cast<char*>(value);
    if (strcmp(verb, "env") == 0) command->env[command->env_count++] = const_cast<char*>(value);
    if (strcmp(verb, "workdir") == 0) command->workdir = value;
    if (strcmp(verb, "user") == 0) command->user = value;
    if (strcmp(verb, "stdin") == 0) command->stdin_data = strcmp(value, "data") == 0;
    if (strcmp(verb, "capabilities") == 0) command->capabilities = strtoull(value, nullptr, 16);
    if (strcmp(verb, "privileges") == 0) command->new_privileges = strcmp(value, "new") == 0;
  }
  if (command->arg_count == 0) give_up(Code::InvalidArgument, 0, "the command is empty");
}

const char* find_env(const Command& command, const char* name) {
  const std::size_t length = strlen(name);
  for (std::size_t i = 0; i < command.env_count; ++i)
    if (strncmp(command.env[i], name, length) == 0 && command.env[i][length] == '=')
      return command.env[i] + length + 1;
  return nullptr;
}

void default_env(Command* command, const char* name, const char* value) {
  if (find_env(*command, name) != nullptr) return;
  const std::size_t size = strlen(name) + strlen(value) + 2;
  char* entry = static_cast<char*>(malloc(size));
  if (entry == nullptr) give_up(Code::Internal, errno, "environment");
  snprintf(entry, size, "%s=%s", name, value);
  command->env[command->env_count++] = entry;
}

void open_stdin(const Command& command) {
  if (!command.stdin_data) return;  // root's own /dev/null
  int fd = open(kStdinPath, O_RDONLY | O_CLOEXEC);
  if (fd < 0 || !move_fd(fd, STDIN_FILENO)) give_up(Code::Internal, errno, "standard input");
}

void become_user(const Command& command, const User& user) {
  if (command.user[0] == 0) return;
  // So that it may open /dev/stdout and /dev/stderr, which lead to the same file.
  if (fchown(STDOUT_FILENO, user.uid, user.gid) != 0) give_up(Code::Internal, errno, "output");
  if (setgroups(user.group_count, user.groups) != 0 || setgid(user.gid) != 0 ||
      setuid(user.uid) != 0)
    give_up(Code::Internal, errno, "become user ", command.user);
}

// The effective and the permitted set follow with the exec. What is inheritable would pass by the
// bounding set there.
void limit_capabilities(unsigned long long most) {
  for (unsigned long number = 0; number < 64; ++number)
    if ((most >> number & 1) == 0 && prctl(PR_CAPBSET_READ, number) == 1 &&
        prctl(PR_CAPBSET_DROP, number) != 0)
      give_up(Code::Internal, errno, "limit capabilities");
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct sets[_LINUX_CAPABILITY_U32S_3] = {};
  if (syscall(SYS_capget, &header, sets) != 0) give_up(Code::Internal, errno, "capget");
  for (__user_cap_data_struct& half : sets) half.inheritable = 0;
  if (syscall(SYS_capset, &header, sets) != 0) give_up(Code::Internal, errno, "capset");
}

// For the root of the tree, which only waits.
void give_up_capabilities() {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  const __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {};
  if (syscall(SYS_capset, &header, none) != 0) give_up(Code::Internal, errno, "capset");
}

[[noreturn]] void exec_failed(const char* name, int error_number) {
  char what[480];
  snprintf(what, sizeof what, "start command: %s", name);
  give_up(code_of(error_number), error_number, what);
}

// Like a shell: a name with a slash is a path; others are looked up in the command's own PATH, and
// a file that may not be executed is reported only when no other is found.
[[noreturn]] void exec_command(const Command& command) {
  const char* name = command.argv[0];
  if (strchr(name, '/') != nullptr || name[0] == 0) {
    execve(name, command.argv, command.env);
    exec_failed(name, errno);
  }
  int worst = ENOENT;
  const char* at = find_env(command, "PATH");
  for (;;) {
    const char* end = strchrnul(at, ':');
    char path[PATH_MAX];
    const int length = static_cast<int>(end - at);
    const int used = snprintf(path, sizeof path, "%.*s/%s", length > 0 ? length : 1,
                              length > 0 ? at : ".", name);
    if (used < static_cast<int>(sizeof path)) {
      execve(path, command.argv, command.env);
      if (errno != ENOENT && errno != ENOTDIR) worst = errno;
      if (errno != ENOENT && errno != ENOTDIR && errno != EACCES) break;
    }
    if (*end == 0) break;
    at = end + 1;
  }
  exec_failed(name, worst);
}

[[noreturn]] void run_command() {
  StartRecord hello;
  hello.command_pid = getpid();
  if (write(kStartFd, &hello, sizeof hello) < 0) _exit(126);
  fcntl(kStartFd, F_SETFD, FD_CLOEXEC);
  fcntl(kCommandFd, F_SETFD, FD_CLOEXEC);

  static Command command;
  static User user;
  read_command(&command);
  char problem[256];
  if (!resolve_user(command.user, &user, problem, sizeof problem))
    give_up(Code::InvalidArgument, 0, problem);
  default_env(&command, "PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
  default_env(&command, "HOME", user.home);
  default_env(&command, "USER", user.name);
  default_env(&command, "LOGNAME", user.name);

  open_stdin(command);
  setsid();
  limit_capabilities(command.capabilities);
  become_user(command, user);
  if (chdir(command.workdir) != 0) {
    char what[480];
    snprintf(what, sizeof what, "working directory %s", command.workdir);
    give_up(code_of(errno), errno, what);
  }
  umask(022);
  reset_signals();
  if (!command.new_privileges && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
    give_up(Code::Internal, errno, "no new privileges");
  exec_command(command);
}

}  // namespace

int root_main() {
  // The tree's processes may signal everything they can reach; root must outlive that.
  block_all_signals();
  prctl(PR_SET_NAME, "baton-root");
  if (prctl(PR_SET_CHILD_SUBREAPER, 1) != 0) give_up(Code::Internal, errno, "become a subreaper");
  setsid();
  const pid_t command = fork();
  if (command == 0) run_command();
  if (command < 0) give_up(Code::Internal, errno, "fork");
  give_up_capabilities();
  close(kCommandFd);
  close(kStartFd);

  int code = 0;
  for (;;) {
    int status = 0;
    const pid_t pid = waitpid(-1, &status, __WALL);
    if (pid < 0 && errno == EINTR) continue;
    if (pid < 0) _exit(code);
    if (pid == command) code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
  }
}

}  // namespace baton::init
