#include "sys/file.h"

#include <fcntl.h>
#include <fts.h>
#include <linux/openat2.h>
#include <sys/syscall.h>

#include <atomic>
#include <cstdlib>
#include <vector>

namespace baton::sys {

Result<Fd> open_file(const fs::path& path, int flags, mode_t mode) {
  Fd fd(::open(path.c_str(), flags | O_CLOEXEC, mode));
  if (!fd.valid()) return fail_errno(fmt::format("open {}", path.string()));
  return fd;
}

Result<Fd> open_beneath(int root, const std::string& path, int flags, bool same_mount) {
  open_how how{};
  how.flags = static_cast<std::uint64_t>(flags | O_CLOEXEC);
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
  if (same_mount) how.resolve |= RESOLVE_NO_XDEV;
  Fd fd(static_cast<int>(::syscall(SYS_openat2, root, path.c_str(), &how, sizeof how)));
  if (!fd.valid()) return fail_errno(fmt::format("open {}", path));
  return fd;
}

Result<std::string> read_file(const fs::path& path, std::uint64_t max_bytes) {
  BATON_TRY(Fd fd, open_file(path, O_RDONLY));
  std::string content;
  std::vector<char> buffer(64 << 10);
  for (;;) {
    ssize_t count = ::read(fd.get(), buffer.data(), buffer.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return fail_errno(fmt::format("read {}", path.string()));
    if (count == 0) return content;
    content.append(buffer.data(), static_cast<std::size_t>(count));
    if (content.size() > max_bytes)
      return fail(ErrorCode::InvalidArgument,
                  fmt::format("read {}: larger than {} bytes", path.string(), max_bytes));
  }
}

Status write_all(int fd, std::string_view data) {
  while (!data.empty()) {
    ssize_t count = ::write(fd, data.data(), data.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return fail_errno("write");
    data.remove_prefix(static_cast<std::size_t>(count));
  }
  return {};
}

Status pwrite_all(int fd, std::string_view data, std::uint64_t offset) {
  while (!data.empty()) {
    ssize_t count = ::pwrite(fd, data.data(), data.size(), static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return fail_errno("write");
    data.remove_prefix(static_cast<std::size_t>(count));
    offset += static_cast<std::uint64_t>(count);
  }
  return {};
}

Status pread_all(int fd, void* data, std::size_t size, std::uint64_t offset) {
  auto* bytes = static_cast<char*>(data);
  while (size > 0) {
    ssize_t count = ::pread(fd, bytes, size, static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return fail_errno("read");
    if (count == 0) return fail(ErrorCode::Damaged, "file ends early");
    bytes += count;
    size -= static_cast<std::size_t>(count);
    offset += static_cast<std::uint64_t>(count);
  }
  return {};
}

Status write_control(const fs::path& path, std::string_view value) {
  BATON_TRY(Fd fd, open_file(path, O_WRONLY));
  BATON_CHECK_CTX(write_all(fd.get(), value), fmt::format("{} <- \"{}\"", path.string(), value));
  return {};
}

void EarlyWriteback::written(int fd, std::uint64_t bytes) {
  constexpr std::uint64_t kStepBytes = 8 << 20;
  if ((waiting_ += bytes) < kStepBytes) return;
  waiting_ = 0;
  (void)::sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE);  // where there is none, it is later
}

Status sync_file(int fd, const fs::path& name_for_errors) {
  if (::fsync(fd) != 0) return fail_errno(fmt::format("fsync {}", name_for_errors.string()));
  return {};
}

Status sync_directory(const fs::path& path) {
  BATON_TRY(Fd fd, open_file(path, O_RDONLY | O_DIRECTORY));
  return sync_file(fd.get(), path);
}

Status write_file_durable(const fs::path& path, std::string_view data, mode_t mode) {
  static std::atomic<unsigned> counter{0};
  fs::path aside = path;
  aside += fmt::format(".{}.{}.tmp", ::getpid(), counter++);
  auto write_aside = [&]() -> Status {
    BATON_TRY(Fd fd, open_file(aside, O_WRONLY | O_CREAT | O_EXCL, mode));
    BATON_CHECK_CTX(write_all(fd.get(), data), aside.string());
    BATON_CHECK(sync_file(fd.get(), aside));
    if (::rename(aside.c_str(), path.c_str()) != 0)
      return fail_errno(fmt::format("rename {} to {}", aside.string(), path.string()));
    return {};
  };
  if (auto status = write_aside(); !status) {
    ::unlink(aside.c_str());
    return status;
  }
  return sync_directory(path.has_parent_path() ? path.parent_path() : fs::path("."));
}

Status make_directories(const fs::path& path, mode_t mode) {
  if (path.empty() || path == "/") return {};
  if (::mkdir(path.c_str(), mode) == 0) return {};
  if (errno == EEXIST) {
    struct stat info {};
    if (::stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode)) return {};
    return fail_errno(fmt::format("mkdir {}", path.string()), ENOTDIR);
  }
  if (errno != ENOENT) return fail_errno(fmt::format("mkdir {}", path.string()));
  BATON_CHECK(make_directories(path.parent_path(), mode));
  if (::mkdir(path.c_str(), mode) != 0 && errno != EEXIST)
    return fail_errno(fmt::format("mkdir {}", path.string()));
  return {};
}

Status remove_tree(const fs::path& path) {
  std::string root = path.string();
  char* roots[] = {root.data(), nullptr};
  FTS* walk = ::fts_open(roots, FTS_PHYSICAL | FTS_XDEV | FTS_NOCHDIR, nullptr);
  if (!walk) return fail_errno(fmt::format("remove {}", root));
  Status status;
  while (FTSENT* entry = ::fts_read(walk)) {
    int failed = 0;
    switch (entry->fts_info) {
      case FTS_D: continue;
      case FTS_DP: failed = ::rmdir(entry->fts_accpath); break;
      case FTS_NS:
      case FTS_ERR:
      case FTS_DNR:
        errno = entry->fts_errno;
        failed = -1;
        break;
      default: failed = ::unlink(entry->fts_accpath); break;
    }
    if (failed && errno != ENOENT && status)
      status = fail_errno(fmt::format("remove {}", entry->fts_path));
  }
  ::fts_close(walk);
  return status;
}

}  // namespace baton::sys
