#include "agent/engine/base_files.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>

#include "store/hash.h"
#include "sys/file.h"

namespace baton::agent {
namespace {

namespace fs = std::filesystem;

bool is_within(const std::string& path, const std::string& folder) {
  return path.starts_with(folder) && (path.size() == folder.size() || path[folder.size()] == '/');
}

// What makes a file the same as the one hashed before.
std::string identity(const struct stat& info) {
  return fmt::format("{}:{}:{}:{}.{}:{}.{}", info.st_dev, info.st_ino, info.st_size,
                     info.st_ctim.tv_sec, info.st_ctim.tv_nsec, info.st_mtim.tv_sec,
                     info.st_mtim.tv_nsec);
}

std::int64_t nanoseconds(const timespec& time) {
  return static_cast<std::int64_t>(time.tv_sec) * 1'000'000'000 + time.tv_nsec;
}

}  // namespace

Status copy_content(const fs::path& from, const fs::path& to) {
  BATON_TRY(Fd source, sys::open_file(from, O_RDONLY));
  BATON_TRY(Fd target, sys::open_file(to, O_WRONLY | O_CREAT | O_EXCL, 0600));
  if (::ioctl(target.get(), FICLONE, source.get()) == 0) return {};
  for (;;) {
    ssize_t count = ::copy_file_range(source.get(), nullptr, target.get(), nullptr, 1u << 30, 0);
    if (count == 0) return {};
    if (count > 0 || errno == EINTR) continue;
    if (errno != EXDEV && errno != EINVAL && errno != ENOSYS && errno != EOPNOTSUPP)
      return fail_errno(fmt::format("copy {}", from.string()));
    break;
  }
  std::vector<char> buffer(1 << 20);
  for (;;) {
    ssize_t count = ::read(source.get(), buffer.data(), buffer.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return fail_errno(fmt::format("copy {}", from.string()));
    if (count == 0) return {};
    BATON_CHECK_CTX(sys::write_all(target.get(), {buffer.data(), static_cast<std::size_t>(count)}),
                    to.string());
  }
}

Status link_or_copy(const fs::path& from, const fs::path& to) {
  if (::link(from.c_str(), to.c_str()) == 0 || errno == EEXIST) return {};
  if (errno != EXDEV && errno != EMLINK && errno != EPERM)
    return fail_errno(fmt::format("link {}", to.string()));
  return copy_content(from, to);
}

BaseView::BaseView(fs::path base, const std::vector<std::pair<std::string, fs::path>>& tree_folders)
    : base_(std::move(base)) {
  for (const auto& [name, folder] : tree_folders) {
    auto paths = overlay_paths({name});
    if (!paths.empty())
      overlays_.push_back({paths.front().string(), name, folder});
    else if (name == "upper")
      overlays_.push_back({"", name, folder});
  }
  std::ranges::sort(overlays_,
                    [](const auto& a, const auto& b) { return a.path.size() > b.path.size(); });
}

BaseView::Place BaseView::locate(const std::string& path) const {
  Place place;
  place.lower = base_ / fs::path(path).relative_path();
  for (const auto& overlay : overlays_) {
    if (!is_within(path, overlay.path)) continue;
    place.tree = overlay.tree;
    place.upper = overlay.folder / fs::path(path.substr(overlay.path.size())).relative_path();
    break;
  }
  return place;
}

Result<std::string> BaseFileCache::hash(const fs::path& file) {
  struct stat before {};
  if (::stat(file.c_str(), &before) != 0) return fail_errno(file.string());
  std::string key = identity(before);
  {
    std::lock_guard lock(mutex_);
    if (auto known = hashes_.find(key); known != hashes_.end()) return known->second;
  }
  BATON_TRY(std::string hash, store::hash_file(file));
  struct stat after {};
  if (::stat(file.c_str(), &after) != 0) return fail_errno(file.string());
  if (identity(after) != key)
    return fail(ErrorCode::Unavailable, fmt::format("{} changes while it is read", file.string()));
  std::lock_guard lock(mutex_);
  hashes_[key] = hash;
  return hash;
}

Status BaseFileCache::ensure_copy(const fs::path& file, const fs::path& copy,
                                  const std::string& hash) {
  if (fs::exists(copy)) return {};
  static std::atomic<unsigned> counter{0};
  fs::path aside = directory_ / fmt::format(".{}.{}.{}", hash, ::getpid(), counter++);
  Status status = copy_content(file, aside);
  // The file may have changed since it was hashed; a copy under a wrong name would spread.
  if (status) {
    auto copied = store::hash_file(aside);
    if (!copied)
      status = fail(std::move(copied).error());
    else if (*copied != hash)
      status =
          fail(ErrorCode::Unavailable, fmt::format("{} changes while it is copied", file.string()));
    else if (::rename(aside.c_str(), copy.c_str()) != 0)
      status = fail_errno(fmt::format("rename {}", aside.string()));
  }
  if (!status) ::unlink(aside.c_str());
  return status;
}

Status BaseFileCache::provide(const fs::path& file, const std::string& hash,
                              const fs::path& target) {
  fs::path copy = directory_ / hash;
  BATON_CHECK(ensure_copy(file, copy, hash));
  return link_or_copy(copy, target);
}

void BaseFileCache::remember(const fs::path& file, const BaseFileRecord& record) {
  std::lock_guard lock(mutex_);
  records_[{file.string(), record.size_bytes}] = record;
}

std::optional<BaseFileRecord> BaseFileCache::recall(const fs::path& file,
                                                    std::uint64_t size_bytes) const {
  std::lock_guard lock(mutex_);
  auto known = records_.find({file.string(), size_bytes});
  if (known == records_.end()) return std::nullopt;
  return known->second;
}

Result<std::vector<BaseFileRecord>> record_base_files(
    const std::vector<criu::ImageFile>& files, const BaseView& view,
    const std::function<bool(const std::string&)>& on_overlay, BaseFileCache& cache) {
  std::map<std::string, BaseFileRecord> records;
  for (const auto& file : files) {
    if (records.contains(file.path) || !on_overlay(file.path)) continue;
    auto place = view.locate(file.path);
    struct stat info {};
    if (place.tree.empty() || ::lstat(place.upper.c_str(), &info) == 0) continue;
    bool there = ::lstat(place.lower.c_str(), &info) == 0;
    if (file.has_size && (!there || static_cast<std::uint64_t>(info.st_size) != file.size_bytes)) {
      auto before = cache.recall(place.lower, file.size_bytes);
      // What was never in the base is the job's own, and gone since the dump.
      if (!before && !there) continue;
      if (!before)
        return fail(ErrorCode::Unavailable,
                    fmt::format("{} was replaced while the job has it open", file.path));
      records.emplace(file.path, std::move(*before));
      continue;
    }
    if (!there || !(S_ISREG(info.st_mode) || S_ISDIR(info.st_mode))) continue;
    BaseFileRecord record;
    record.path = file.path;
    record.tree = place.tree;
    record.is_directory = S_ISDIR(info.st_mode);
    record.mode = info.st_mode;
    record.uid = info.st_uid;
    record.gid = info.st_gid;
    record.mtime_ns = nanoseconds(info.st_mtim);
    if (!record.is_directory) {
      record.size_bytes = static_cast<std::uint64_t>(info.st_size);
      BATON_TRY(record.hash, cache.hash(place.lower));
      cache.remember(place.lower, record);
    }
    records.emplace(file.path, std::move(record));
  }
  std::vector<BaseFileRecord> list;
  for (auto& [path, record] : records) list.push_back(std::move(record));
  return list;
}

namespace {

// Whether the base of this node will do for what the job had.
Result<bool> base_has(const BaseFileRecord& record, const fs::path& lower, BaseFileCache& cache) {
  struct stat info {};
  if (::lstat(lower.c_str(), &info) != 0) return false;
  if (info.st_mode != record.mode) return false;
  if (record.is_directory) return true;
  if (static_cast<std::uint64_t>(info.st_size) != record.size_bytes) return false;
  BATON_TRY(std::string hash, cache.hash(lower));
  return hash == record.hash;
}

Status set_owner_and_mode(const fs::path& path, const struct stat& like) {
  if (::lchown(path.c_str(), like.st_uid, like.st_gid) != 0 ||
      ::chmod(path.c_str(), like.st_mode & 07777) != 0)
    return fail_errno(path.string());
  return {};
}

// Makes the folders above `path` in the private layer, each like the one of the base it lies over.
// From the top down: the checkpoint may have put a link there that leads out of the layer.
Status make_parents(const std::string& path, const BaseView& view) {
  const fs::path parent = fs::path(path).parent_path();
  const auto place = view.locate(parent.string());
  const bool is_top =
      parent == parent.root_path() || view.locate(parent.parent_path().string()).tree != place.tree;
  if (!is_top) BATON_CHECK(make_parents(parent.string(), view));
  struct stat info {};
  if (::lstat(place.upper.c_str(), &info) == 0)
    return S_ISDIR(info.st_mode)
               ? Status{}
               : fail(ErrorCode::Unfit,
                      fmt::format("{} is not a folder in the checkpoint", parent.string()));
  if (::mkdir(place.upper.c_str(), 0755) != 0)
    return fail_errno(fmt::format("mkdir {}", place.upper.string()));
  if (::lstat(place.lower.c_str(), &info) != 0 || !S_ISDIR(info.st_mode)) return {};
  return set_owner_and_mode(place.upper, info);
}

Status supply(const BaseFileRecord& record, const fs::path& upper, const fs::path& contents) {
  struct stat like {};
  like.st_uid = record.uid;
  like.st_gid = record.gid;
  like.st_mode = record.mode;
  if (record.is_directory) {
    if (::mkdir(upper.c_str(), 0755) != 0)
      return fail_errno(fmt::format("mkdir {}", upper.string()));
    return set_owner_and_mode(upper, like);
  }
  fs::path content = contents / record.hash;
  if (!fs::exists(content))
    return fail(ErrorCode::Damaged, fmt::format("the checkpoint lacks the content of {} ({})",
                                                record.path, record.hash));
  BATON_CHECK(copy_content(content, upper));
  BATON_TRY(std::string hash, store::hash_file(upper));
  if (hash != record.hash)
    return fail(ErrorCode::Damaged,
                fmt::format("the checkpoint's content of {} is damaged", record.path));
  BATON_CHECK(set_owner_and_mode(upper, like));
  timespec times[2] = {{0, UTIME_OMIT},
                       {record.mtime_ns / 1'000'000'000, record.mtime_ns % 1'000'000'000}};
  if (::utimensat(AT_FDCWD, upper.c_str(), times, AT_SYMLINK_NOFOLLOW) != 0)
    return fail_errno(upper.string());
  return {};
}

}  // namespace

Result<std::vector<std::string>> supply_base_files(const std::vector<BaseFileRecord>& records,
                                                   const BaseView& view, const fs::path& contents,
                                                   BaseFileCache& cache) {
  std::vector<std::string> supplied;
  for (const auto& record : records) {
    auto place = view.locate(record.path);
    if (place.tree != record.tree || !fs::path(record.path).is_absolute() ||
        fs::path(record.path).lexically_normal() != fs::path(record.path))
      return fail(ErrorCode::Damaged,
                  fmt::format("{}: not a path of the tree {}", record.path, record.tree));
    struct stat info {};
    if (::lstat(place.upper.c_str(), &info) == 0) continue;  // made above for something inside it
    BATON_TRY(bool same, base_has(record, place.lower, cache));
    if (same) continue;
    BATON_CHECK(make_parents(record.path, view));
    BATON_CHECK(supply(record, place.upper, contents));
    supplied.push_back(record.path);
  }
  return supplied;
}

}  // namespace baton::agent
