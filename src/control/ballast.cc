#include "control/ballast.h"

#include <fcntl.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>

#include "sys/file.h"

namespace baton::control {
namespace {

constexpr std::uint64_t kLeastFreeBytes = 256 << 10;

}  // namespace

Ballast::Ballast(std::filesystem::path folder)
    : folder_(std::move(folder)), file_(folder_ / "ballast") {
  struct statvfs info {};
  if (::statvfs(folder_.c_str(), &info) == 0)
    bytes_ = std::min<std::uint64_t>(kBytes, std::uint64_t{info.f_blocks} * info.f_frsize / 16);
  restore();
}

std::uint64_t Ballast::free_bytes() const {
  struct statvfs info {};
  if (::statvfs(folder_.c_str(), &info) != 0) return 0;
  return std::uint64_t{info.f_bavail} * info.f_frsize;
}

bool Ballast::drop() {
  if (!held_) return false;
  held_ = false;
  return ::unlink(file_.c_str()) == 0;
}

void Ballast::restore() {
  if (held_ || free_bytes() < 2 * bytes_) return;
  auto fd = sys::open_file(file_, O_WRONLY | O_CREAT, 0600);
  if (!fd) return;
  held_ = ::posix_fallocate(fd->get(), 0, static_cast<off_t>(bytes_)) == 0;
  if (!held_) ::unlink(file_.c_str());
}

// Twice: into the write-ahead log, and from there into the database.
bool Ballast::has_room(std::uint64_t bytes) const {
  return free_bytes() >= kLeastFreeBytes + 2 * bytes;
}

}  // namespace baton::control
