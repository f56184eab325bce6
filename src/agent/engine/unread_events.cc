#include "agent/engine/unread_events.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdlib>
#include <vector>

#include "base/fd.h"

namespace baton::agent {
namespace {

namespace fs = std::filesystem;

constexpr int tries_max = 3;

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

// Of descriptors that can't be looked at: false.
bool has_unread(pid_t pid) {
  const auto numbers = inotify_descriptors(pid);
  if (numbers.empty()) return false;
  const Fd process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  for (int number : numbers) {
    const Fd copy(static_cast<int>(::syscall(SYS_pidfd_getfd, process.get(), number, 0)));
    int bytes = 0;
    if (copy.valid() && ::ioctl(copy.get(), FIONREAD, &bytes) == 0 && bytes > 0) return true;
  }
  return false;
}

}  // namespace

bool UnreadEvents::worth_another_try(const Processes& processes) {
  for (auto [inner, pid] : processes) {
    if (!has_unread(pid)) continue;
    if (tries_ == tries_max) return false;
    ++tries_;
    return true;
  }
  tries_ = 0;
  return false;
}

}  // namespace baton::agent
