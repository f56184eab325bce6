#include "agent/engine/unread_events.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <filesystem>

#include "base/fd.h"

namespace baton::agent {
namespace {

namespace fs = std::filesystem;

std::vector<int> inotify_descriptors(pid_t pid) {
  std::vector<int> numbers;
  std::error_code error;
  fs::directory_iterator at(fmt::format("/proc/{}/fd", pid), error);
  for (; !error && at != fs::directory_iterator(); at.increment(error)) {
    std::error_code ignored;
    if (fs::read_symlink(at->path(), ignored).native() == "anon_inode:inotify")
      numbers.push_back(std::atoi(at->path().filename().c_str()));
  }
  return numbers;
}

}  // namespace

bool has_unread_inotify_events(const std::vector<std::pair<pid_t, pid_t>>& processes) {
  for (auto [inner, pid] : processes) {
    const auto numbers = inotify_descriptors(pid);
    if (numbers.empty()) continue;
    const Fd process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
    for (int number : numbers) {
      const Fd copy(static_cast<int>(::syscall(SYS_pidfd_getfd, process.get(), number, 0)));
      int bytes = 0;
      if (copy.valid() && ::ioctl(copy.get(), FIONREAD, &bytes) == 0 && bytes > 0) return true;
    }
  }
  return false;
}

}  // namespace baton::agent
