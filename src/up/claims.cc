#include "up/claims.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <random>

#include "base/log.h"
#include "sys/file.h"

// <sys/file.h>, which declares it, is hidden by our own sys/file.h.
extern "C" int flock(int fd, int operation) noexcept;

namespace baton::up {
namespace {

namespace fs = std::filesystem;

constexpr const char* kGroupPrefix = "baton-up-";
constexpr const char* kTemporaryPrefix = "baton-up-";
constexpr const char* kTemporaryParent =
    "/var/tmp";  // on a disk: an overlay can't be on every tmpfs
constexpr const char* kLockName = "up.lock";
const fs::path kDefaultSocket = "/run/baton/baton.sock";

std::string random_name(const char* prefix) {
  std::random_device random;
  return fmt::format("{}{:08x}", prefix, random());
}

// Locks a directory or file; an invalid Fd when somebody else has it.
Result<Fd> try_lock(const fs::path& path, int flags) {
  BATON_TRY(Fd fd, sys::open_file(path, flags, 0600));
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) == 0) return fd;
  if (errno == EWOULDBLOCK) return Fd();
  return fail_errno(fmt::format("lock {}", path.string()));
}

// The group's directory that carries the lock: in the first hierarchy that has the group.
Result<fs::path> lock_directory(const fs::path& group) {
  BATON_TRY(const auto hierarchies, sys::cgroup_hierarchies());
  std::error_code ignored;
  for (const auto& hierarchy : hierarchies)
    if (fs::is_directory(hierarchy.mount / group, ignored)) return hierarchy.mount / group;
  return fail(ErrorCode::NotFound, fmt::format("control group {} is gone", group.string()));
}

Status remove_group(const fs::path& path) {
  BATON_TRY(const sys::Cgroup group, sys::Cgroup::open(path));
  BATON_CHECK(group.kill());
  return group.remove();
}

void remove_orphaned_groups() {
  const auto hierarchies = sys::cgroup_hierarchies();
  if (!hierarchies) return;
  for (const auto& hierarchy : *hierarchies) {
    std::error_code ignored;
    for (const auto& entry : fs::directory_iterator(hierarchy.mount, ignored)) {
      const fs::path name = entry.path().filename();
      if (!name.string().starts_with(kGroupPrefix)) continue;
      const auto directory = lock_directory(name);
      const auto lock = directory ? try_lock(*directory, O_RDONLY | O_DIRECTORY) : Fd();
      if (!lock || !lock->valid()) continue;
      if (auto removed = remove_group(name); !removed)
        spdlog::warn("control group {} of an earlier cluster stays: {}", name.string(),
                     removed.error().message());
    }
  }
}

void remove_orphaned_directories() {
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(kTemporaryParent, ignored)) {
    if (!entry.path().filename().string().starts_with(kTemporaryPrefix)) continue;
    const auto lock = try_lock(entry.path() / kLockName, O_RDWR);
    if (!lock || !lock->valid()) continue;
    if (auto removed = sys::remove_tree(entry.path()); !removed)
      spdlog::warn("{} of an earlier cluster stays: {}", entry.path().string(),
                   removed.error().message());
  }
}

bool somebody_listens(const fs::path& socket) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string name = socket.string();
  if (name.size() >= sizeof address.sun_path) return false;
  std::copy(name.begin(), name.end(), address.sun_path);
  const Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  return ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
}

}  // namespace

Result<Fd> take_turn() {
  BATON_CHECK(sys::make_directories(kDefaultSocket.parent_path()));
  BATON_TRY(Fd turn,
            sys::open_file(kDefaultSocket.parent_path() / kLockName, O_RDWR | O_CREAT, 0600));
  while (::flock(turn.get(), LOCK_EX) != 0)
    if (errno != EINTR) return fail_errno("wait for another `baton up` to start");
  return turn;
}

void remove_orphans() {
  remove_orphaned_groups();
  remove_orphaned_directories();
}

Result<DataDirectory> DataDirectory::claim(const fs::path& path) {
  DataDirectory data;
  data.temporary_ = path.empty();
  data.path_ = path.empty() ? fs::path(kTemporaryParent) / random_name(kTemporaryPrefix)
                            : fs::absolute(path).lexically_normal();
  BATON_CHECK(sys::make_directories(data.path_, 0700));
  BATON_TRY(data.lock_, try_lock(data.path_ / kLockName, O_RDWR | O_CREAT));
  if (!data.lock_.valid())
    return fail(ErrorCode::FailedPrecondition,
                fmt::format("another `baton up` uses {}", path.string()));
  return data;
}

DataDirectory::~DataDirectory() {
  if (!temporary_ || !lock_.valid()) return;
  if (auto removed = sys::remove_tree(path_); !removed)
    spdlog::warn("{} stays: {}", path_.string(), removed.error().message());
}

Result<ClusterGroup> ClusterGroup::create() {
  ClusterGroup group;
  const fs::path name = random_name(kGroupPrefix);
  BATON_CHECK(sys::Cgroup::create(name));
  group.path_ = name;
  BATON_TRY(const fs::path directory, lock_directory(name));
  BATON_TRY(group.lock_, try_lock(directory, O_RDONLY | O_DIRECTORY));
  return group;
}

ClusterGroup::~ClusterGroup() {
  if (path_.empty()) return;
  if (auto removed = remove_group(path_); !removed)
    spdlog::warn("control group {} stays: {}", path_.string(), removed.error().message());
}

Result<DefaultSocket> DefaultSocket::take(const fs::path& socket) {
  std::error_code ignored;
  if (fs::exists(fs::symlink_status(kDefaultSocket, ignored)) && somebody_listens(kDefaultSocket))
    return fail(ErrorCode::AlreadyExists,
                fmt::format("{} belongs to another controller", kDefaultSocket.string()));
  BATON_CHECK(sys::make_directories(kDefaultSocket.parent_path()));
  const fs::path aside = kDefaultSocket.string() + random_name(".");
  if (::symlink(socket.c_str(), aside.c_str()) != 0 ||
      ::rename(aside.c_str(), kDefaultSocket.c_str()) != 0)
    return fail_errno(fmt::format("link {}", kDefaultSocket.string()));
  DefaultSocket taken;
  taken.target_ = socket;
  return taken;
}

DefaultSocket::~DefaultSocket() {
  std::error_code ignored;
  if (!target_.empty() && fs::read_symlink(kDefaultSocket, ignored) == target_)
    fs::remove(kDefaultSocket, ignored);
}

}  // namespace baton::up
