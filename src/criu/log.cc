#include "criu/log.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "sys/file.h"

namespace baton::criu {
namespace {

// What CRIU logs as an error and then gets along without: it asks for more descriptors than a
// container may have, and looks whether the kernel has tun devices.
bool is_harmless(std::string_view text) {
  return text.starts_with("rlimit: Can't setup RLIMIT_NOFILE") ||
         text.starts_with("tun: Unable to create tun");
}

// "(00.012345)      1: Error (criu/x.c:12): text" -> "text"; nothing for another kind of line.
std::string_view error_text(std::string_view line) {
  constexpr std::string_view mark = "Error (";
  auto at = line.find(mark);
  if (at == std::string_view::npos || at > 40) return {};
  auto end = line.find("): ", at);
  if (end == std::string_view::npos || is_harmless(line.substr(end + 3))) return {};
  return line.substr(end + 3);
}

}  // namespace

std::string first_error(std::string_view log) {
  while (!log.empty()) {
    auto end = log.find('\n');
    auto text = error_text(log.substr(0, end));
    if (!text.empty()) return std::string(text);
    if (end == std::string_view::npos) break;
    log.remove_prefix(end + 1);
  }
  return {};
}

std::string tail(std::string_view log, std::size_t max_bytes) {
  if (log.size() <= max_bytes) return std::string(log);
  log.remove_prefix(log.size() - max_bytes);
  auto line = log.find('\n');
  return std::string(line == std::string_view::npos ? log : log.substr(line + 1));
}

std::string read_log(const std::filesystem::path& path, std::size_t max_bytes) {
  auto fd = sys::open_file(path, O_RDONLY);
  struct stat info {};
  if (!fd || ::fstat(fd->get(), &info) != 0) return {};
  auto size = static_cast<std::size_t>(info.st_size);
  std::size_t start = size > max_bytes ? size - max_bytes : 0;
  std::string content(size - start, '\0');
  if (!sys::pread_all(fd->get(), content.data(), content.size(), start)) return {};
  return content;
}

}  // namespace baton::criu
