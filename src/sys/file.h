// Files: whole reads and writes, durable publishing, trees. Errors name the path.
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "base/fd.h"
#include "base/result.h"

namespace baton::sys {

namespace fs = std::filesystem;

// open(2) with O_CLOEXEC added.
Result<Fd> open_file(const fs::path& path, int flags, mode_t mode = 0644);

// Opens below `root` and nowhere else: no "..", no link on the way. `same_mount`: and no mount
// point.
Result<Fd> open_beneath(int root, const std::string& path, int flags, bool same_mount = false);

// Whole files, up to max_bytes (InvalidArgument beyond). /proc and sysfs files work.
Result<std::string> read_file(const fs::path& path, std::uint64_t max_bytes = 64u << 20);

Status write_all(int fd, std::string_view data);
Status pwrite_all(int fd, std::string_view data, std::uint64_t offset);
// Exactly `size` bytes, or an error (Damaged at an early end).
Status pread_all(int fd, void* data, std::size_t size, std::uint64_t offset);

// Plain write to an existing control file (sysfs, cgroup, /proc); no create, no truncate.
Status write_control(const fs::path& path, std::string_view value);

// Creates or replaces `path` so that after a crash it holds the old or the new content, whole:
// write aside, fsync, rename, fsync the folder.
Status write_file_durable(const fs::path& path, std::string_view data, mode_t mode = 0644);
Status sync_directory(const fs::path& path);
Status sync_file(int fd, const fs::path& name_for_errors);
// Has the disk write what large files get while they get it; waits only where the disk's queue is
// full. Else all of it
// is written when somebody on that disk wants a small file to be durable: ext4 keeps the order, and
// he waits for seconds. Thread-compatible.
class EarlyWriteback {
 public:
  // So many bytes more were written to the file.
  void written(int fd, std::uint64_t bytes);

 private:
  std::uint64_t waiting_ = 0;
};

// mkdir -p; fine if it exists.
Status make_directories(const fs::path& path, mode_t mode = 0755);
// rm -rf that does not follow links and does not cross mounts; fine if absent.
Status remove_tree(const fs::path& path);

}  // namespace baton::sys
