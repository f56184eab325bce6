#include "init/util.h"

#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <climits>

namespace baton::init {

const char* Records::next() {
  const auto left = static_cast<std::size_t>(end_ - next_);
  const void* terminator = left > 0 ? memchr(next_, 0, left) : nullptr;
  if (terminator == nullptr) return nullptr;
  const char* record = next_;
  next_ = static_cast<const char*>(terminator) + 1;
  return record;
}

const char* map_file(int fd, std::size_t* size) {
  struct stat status {};
  if (fstat(fd, &status) != 0) return nullptr;
  if (status.st_size == 0) {
    errno = EINVAL;
    return nullptr;
  }
  *size = static_cast<std::size_t>(status.st_size);
  void* data = mmap(nullptr, *size, PROT_READ, MAP_PRIVATE, fd, 0);
  return data == MAP_FAILED ? nullptr : static_cast<const char*>(data);
}

bool make_directories(const char* path, unsigned mode) {
  char partial[PATH_MAX];
  const std::size_t length = strlen(path);
  if (length >= sizeof partial) {
    errno = ENAMETOOLONG;
    return false;
  }
  memcpy(partial, path, length + 1);
  for (char* at = partial + 1; *at != 0; ++at) {
    if (*at != '/') continue;
    *at = 0;
    if (mkdir(partial, 0755) != 0 && errno != EEXIST) return false;
    *at = '/';
  }
  if (mkdir(partial, mode) == 0) return chmod(partial, mode) == 0;
  if (errno != EEXIST) return false;
  struct stat status {};
  if (stat(partial, &status) != 0) return false;
  errno = ENOTDIR;
  return S_ISDIR(status.st_mode);
}

void reset_signals() {
  // By the system call: libc keeps signals 32 and 33 to itself and would leave them as inherited.
  struct {
    void (*handler)(int);
    unsigned long flags;
    void (*restorer)();
    unsigned long mask;
  } const as_at_boot{};
  for (int number = 1; number < NSIG; ++number)
    syscall(SYS_rt_sigaction, number, &as_at_boot, nullptr, sizeof(unsigned long));
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
}

void block_all_signals() {
  sigset_t all;
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, nullptr);
}

bool move_fd(int source, int target) {
  if (source == target) return fcntl(source, F_SETFD, 0) == 0;
  return dup2(source, target) == target && close(source) == 0;
}

void log_line(const char* format, ...) {
  char line[1200];
  va_list arguments;
  va_start(arguments, format);
  int length = vsnprintf(line, sizeof line - 1, format, arguments);
  va_end(arguments);
  if (length < 0) return;
  if (length > static_cast<int>(sizeof line) - 2) length = sizeof line - 2;
  line[length++] = '\n';
  if (write(STDERR_FILENO, line, static_cast<std::size_t>(length)) < 0) return;
}

long long number(const char* text) { return strtoll(text, nullptr, 10); }

}  // namespace baton::init
