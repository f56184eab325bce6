#include "agent/engine/refusal.h"

#include <fmt/format.h>
#include <sys/statfs.h>

#include <charconv>
#include <filesystem>

namespace baton::agent {
namespace {

namespace fs = std::filesystem;

constexpr long mqueue_magic = 0x19800202;

// The number behind the first `mark` in `text`; -1 if there is none.
int number_after(std::string_view text, std::string_view mark) {
  auto at = text.find(mark);
  if (at == std::string_view::npos) return -1;
  text.remove_prefix(at + mark.size());
  int value = -1;
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}

std::string find_io_uring(pid_t pid) {
  std::error_code error;
  fs::directory_iterator at(fmt::format("/proc/{}/fd", pid), error);
  for (; !error && at != fs::directory_iterator(); at.increment(error)) {
    std::error_code gone;
    if (fs::read_symlink(at->path(), gone) == "anon_inode:[io_uring]")
      return fmt::format("Can't dump file {} of that type [600] (anon anon_inode:[io_uring])",
                         at->path().filename().string());
  }
  return {};
}

std::string find_message_queue(pid_t pid, int descriptor) {
  struct statfs info {};
  if (::statfs(fmt::format("/proc/{}/fd/{}", pid, descriptor).c_str(), &info) != 0) return {};
  if (info.f_type != mqueue_magic) return {};
  return fmt::format("Can't dump file {} of that type [100600] (mqueue)", descriptor);
}

}  // namespace

std::string find_refusal(std::string_view log,
                         const std::vector<std::pair<pid_t, pid_t>>& processes) {
  const int inner = number_after(log, "Dump files (pid: ");
  for (auto [inner_pid, pid] : processes) {
    if (inner_pid != inner) continue;
    if (log.find("send_fds failed") != std::string_view::npos) return find_io_uring(pid);
    auto lookup = log.find("Can't lookup mount=");
    if (lookup != std::string_view::npos)
      return find_message_queue(pid, number_after(log.substr(lookup), " for fd="));
  }
  return {};
}

}  // namespace baton::agent
