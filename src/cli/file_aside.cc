#include "cli/file_aside.h"

#include <fcntl.h>
#include <unistd.h>

#include <filesystem>

namespace baton::cli {

FileAside::FileAside(std::string path, std::string aside, Fd fd)
    : path_(std::move(path)), aside_(std::move(aside)), fd_(std::move(fd)) {}

FileAside::FileAside(FileAside&& other) noexcept
    : path_(std::move(other.path_)),
      aside_(std::exchange(other.aside_, {})),
      fd_(std::move(other.fd_)) {}

FileAside::~FileAside() {
  if (!aside_.empty()) ::unlink(aside_.c_str());
}

Result<FileAside> FileAside::create(const std::string& path) {
  std::string aside = fmt::format("{}.{}.partial", path, ::getpid());
  Fd fd(::open(aside.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!fd.valid()) return fail_errno(fmt::format("create {}", aside));
  return FileAside(path, std::move(aside), std::move(fd));
}

Status FileAside::write(std::string_view data) {
  while (!data.empty()) {
    const ssize_t count = ::write(fd_.get(), data.data(), data.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return fail_errno(fmt::format("write {}", path_));
    data.remove_prefix(static_cast<std::size_t>(count));
  }
  return {};
}

Status FileAside::publish() {
  if (::fsync(fd_.get()) != 0) return fail_errno(fmt::format("write {}", path_));
  if (::rename(aside_.c_str(), path_.c_str()) != 0)
    return fail_errno(fmt::format("rename to {}", path_));
  aside_.clear();
  const auto folder = std::filesystem::path(path_).parent_path();
  Fd parent(::open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!parent.valid() || ::fsync(parent.get()) != 0)
    return fail_errno(fmt::format("make {} durable", path_));
  return {};
}

}  // namespace baton::cli
