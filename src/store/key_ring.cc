#include "store/key_ring.h"

#include <fcntl.h>
#include <unistd.h>

#include <charconv>

#include "store/key_file.h"
#include "sys/file.h"

namespace baton::store {
namespace {

namespace fs = std::filesystem;

constexpr const char* kCluster = "cluster";
constexpr const char* kAside = ".new";  // a file that is not whole yet
constexpr const char* kDamaged = ".damaged";
constexpr std::uint64_t kMaxFileBytes = 4096;

fs::path with(fs::path path, const char* suffix) { return path += suffix; }

std::optional<JobId> job_of(const std::string& name) {
  std::uint64_t value = 0;
  auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), value);
  if (error != std::errc() || end != name.data() + name.size() || name.empty()) return std::nullopt;
  return JobId(value);
}

Result<std::vector<std::string>> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end;
       entry.increment(error))
    names.push_back(entry->path().filename().string());
  if (error && error != std::errc::no_such_file_or_directory)
    return fail_errno(fmt::format("read {}", folder.string()), error.value());
  return names;
}

// Nothing of what the file held is in its blocks any more, as far as the filesystem writes in
// place.
Status overwrite(int file, const fs::path& path) {
  struct stat info {};
  if (::fstat(file, &info) != 0) return fail_errno(fmt::format("stat {}", path.string()));
  std::string noise(
      std::min<std::uint64_t>(static_cast<std::uint64_t>(info.st_size), kMaxFileBytes), '\0');
  fill_random(noise.data(), noise.size());
  BATON_CHECK_CTX(sys::pwrite_all(file, noise, 0), path.string());
  return sys::sync_file(file, path);
}

Status shred(const fs::path& path) {
  auto file = sys::open_file(path, O_WRONLY | O_NOFOLLOW);
  if (!file && file.error().code() == ErrorCode::NotFound) return {};
  // What can't be overwritten is at least unlinked; the error is told all the same.
  const Status overwritten = file ? overwrite(file->get(), path) : Status(fail(file.error()));
  if (::unlink(path.c_str()) != 0 && errno != ENOENT)
    return fail_errno(fmt::format("remove {}", path.string()));
  return overwritten;
}

Result<std::optional<key_file::Cluster>> read_cluster(const fs::path& folder) {
  const fs::path path = folder / kCluster;
  auto bytes = sys::read_file(path, kMaxFileBytes);
  if (!bytes && bytes.error().code() == ErrorCode::NotFound) return std::nullopt;
  if (!bytes) return fail(std::move(bytes).error());
  auto cluster = key_file::decode_cluster(*bytes);
  if (!cluster)
    return fail(ErrorCode::Damaged,
                fmt::format("{}: {}. It only says which key is the right one: put it back from a "
                            "copy, or remove it and start with the key that you are sure of",
                            path.string(), cluster.error().message()));
  return *cluster;
}

Error wrong_key(const fs::path& folder, const key_file::KeyId& given,
                const key_file::KeyId& needed) {
  return Error(ErrorCode::FailedPrecondition,
               fmt::format("the key given is not that of the encrypted store in {}: its id is {}, "
                           "and the store's key has the id {}. (To change the key, start once "
                           "with the new one and --old-store-key-file)",
                           folder.parent_path().string(), key_file::to_text(given),
                           key_file::to_text(needed)));
}

}  // namespace

KeyRing::KeyRing(fs::path folder, const Secret& cluster, Observer observer)
    : folder_(std::move(folder)),
      cluster_(cluster),
      id_(key_file::id_of(cluster)),
      observer_(std::move(observer)) {}

Result<std::unique_ptr<KeyRing>> KeyRing::open(const fs::path& folder,
                                               const std::optional<ClusterKeys>& keys,
                                               Observer observer) {
  if (!keys) {
    BATON_TRY(const auto names, names_in(folder));
    if (names.empty()) return nullptr;
    return fail(ErrorCode::FailedPrecondition,
                fmt::format("the store in {} is encrypted: give its key with --store-key-file or "
                            "--store-key-command",
                            folder.parent_path().string()));
  }
  if (::access(folder.c_str(), F_OK) != 0) {
    BATON_CHECK(sys::make_directories(folder, 0700));
    BATON_CHECK(sys::sync_directory(folder.parent_path()));
  }
  BATON_TRY(const auto names, names_in(folder));
  for (const std::string& name : names)
    if (name.ends_with(kAside) || name.ends_with(".tmp")) BATON_CHECK(shred(folder / name));
  std::unique_ptr<KeyRing> ring(new KeyRing(folder, keys->current, std::move(observer)));
  BATON_CHECK(ring->take_over(keys->old));
  return ring;
}

// Proves that the key is the right one, and makes it so where it takes the place of another.
Status KeyRing::take_over(const std::optional<Secret>& old) {
  constexpr Id none{};
  BATON_TRY(const auto cluster, read_cluster(folder_));
  if (!cluster) {
    BATON_TRY(const auto jobs, list());
    for (JobId job : jobs) {
      BATON_TRY(const std::string bytes, sys::read_file(path(job), kMaxFileBytes));
      const auto with = key_file::wrapped_with(bytes);
      if (with && *with != id_) return fail(wrong_key(folder_, id_, *with));
    }
    return write_cluster(none);
  }
  if (cluster->current == id_ && cluster->previous == none) return {};
  const Id old_id = old ? key_file::id_of(*old) : none;
  const bool begins = cluster->previous == none && cluster->current == old_id;
  const bool goes_on =
      cluster->previous != none && ((cluster->current == id_ && cluster->previous == old_id) ||
                                    (cluster->current == old_id && cluster->previous == id_));
  if (!old && cluster->previous != none && (cluster->current == id_ || cluster->previous == id_))
    return fail(ErrorCode::FailedPrecondition,
                fmt::format("a change of the store's key was begun in {} and not finished: start "
                            "once more with both, the new one and --old-store-key-file",
                            folder_.parent_path().string()));
  if (!begins && !goes_on) return fail(wrong_key(folder_, id_, cluster->current));
  BATON_CHECK(write_cluster(old_id));
  BATON_CHECK_CTX(wrap_anew(*old, old_id), "wrap the jobs' keys with the new key");
  return write_cluster(none);
}

// What is damaged stays as it is: it is found when its job's checkpoints are read.
Status KeyRing::wrap_anew(const Secret& old, const Id& old_id) {
  BATON_TRY(const auto jobs, list());
  for (JobId job : jobs) {
    BATON_TRY(Fd before, sys::open_file(path(job), O_RDWR | O_NOFOLLOW));
    BATON_TRY(const std::string bytes, sys::read_file(path(job), kMaxFileBytes));
    if (key_file::wrapped_with(bytes) != old_id) continue;
    const auto key = key_file::unwrap(bytes, job, old);
    if (!key) continue;
    BATON_CHECK(write(*key));
    // Whoever comes by the old key is not to find what it unwraps.
    BATON_CHECK(overwrite(before.get(), path(job)));
  }
  return {};
}

Status KeyRing::write_cluster(const Id& previous) {
  const fs::path target = folder_ / kCluster;
  BATON_CHECK(sys::write_file_durable(target, key_file::encode({id_, previous}), 0600));
  observe("key-cluster", target);
  return {};
}

fs::path KeyRing::path(JobId job) const { return folder_ / fmt::to_string(job.value); }

void KeyRing::observe(std::string_view step, const fs::path& path) const {
  if (observer_) observer_(step, path);
}

Status KeyRing::write(const JobKey& key) {
  const fs::path target = path(key.job);
  const fs::path aside = with(target, kAside);
  auto write_aside = [&]() -> Status {
    BATON_TRY(Fd file, sys::open_file(aside, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, 0600));
    BATON_CHECK_CTX(sys::write_all(file.get(), key_file::wrap(key, cluster_)), aside.string());
    BATON_CHECK(sys::sync_file(file.get(), aside));
    observe("sync-file", aside);
    if (::rename(aside.c_str(), target.c_str()) != 0)
      return fail_errno(fmt::format("rename {}", aside.string()));
    return {};
  };
  if (auto status = write_aside(); !status) {
    (void)shred(aside);
    return status;
  }
  observe("key-rename", target);
  BATON_CHECK(sys::sync_directory(folder_));
  observe("key-folder", folder_);
  return {};
}

Result<std::shared_ptr<const JobKey>> KeyRing::load(JobId job) const {
  BATON_TRY(const std::string bytes, sys::read_file(path(job), kMaxFileBytes));
  const auto with = key_file::wrapped_with(bytes);
  auto key = key_file::unwrap(bytes, job, cluster_);
  if (key) return std::make_shared<const JobKey>(std::move(*key));
  // Perhaps of another time: not to be thrown away.
  if (with && *with != id_)
    return fail(ErrorCode::FailedPrecondition,
                fmt::format("{}: it is wrapped with another key, of id {}, than the store's, {}",
                            path(job).string(), key_file::to_text(*with), key_file::to_text(id_)));
  return fail(key.error().context(path(job).string()));
}

Result<std::shared_ptr<const JobKey>> KeyRing::find(JobId job) {
  std::lock_guard lock(mutex_);
  if (forgotten_.contains(job))
    return fail(ErrorCode::NotFound, fmt::format("the key of job {} was forgotten", job));
  if (auto found = known_.find(job); found != known_.end()) return found->second;
  BATON_TRY(auto key, load(job));
  known_[job] = key;
  return key;
}

Result<std::shared_ptr<const JobKey>> KeyRing::find_or_make(JobId job) {
  auto found = find(job);
  if (found) return found;
  std::lock_guard lock(mutex_);
  if (forgotten_.contains(job)) return found;
  if (auto known = known_.find(job); known != known_.end()) return known->second;
  const ErrorCode why = found.error().code();
  if (why != ErrorCode::NotFound && why != ErrorCode::Damaged) return found;
  if (why == ErrorCode::Damaged &&
      ::rename(path(job).c_str(), with(path(job), kDamaged).c_str()) != 0)
    return fail_errno(fmt::format("rename {}", path(job).string()));
  auto key = std::make_shared<JobKey>(key_file::make(job));
  BATON_CHECK_CTX(write(*key), fmt::format("make a key for job {}", job));
  known_[job] = key;
  return key;
}

Status KeyRing::forget(JobId job, Forget how) {
  std::lock_guard lock(mutex_);
  if (how == Forget::ForGood && !forgotten_.insert(job).second && !fs::exists(path(job))) return {};
  known_.erase(job);
  Status first;
  for (const fs::path& file : {path(job), with(path(job), kAside), with(path(job), kDamaged)})
    if (auto status = shred(file); !status && first) first = std::move(status);
  BATON_CHECK(sys::sync_directory(folder_));
  observe("key-forgotten", path(job));
  return first;
}

bool KeyRing::is_forgotten(JobId job) const {
  std::lock_guard lock(mutex_);
  return forgotten_.contains(job);
}

Result<std::vector<JobId>> KeyRing::list() const {
  BATON_TRY(const auto names, names_in(folder_));
  std::vector<JobId> jobs;
  for (const std::string& name : names)
    if (auto job = job_of(name)) jobs.push_back(*job);
  return jobs;
}

}  // namespace baton::store
