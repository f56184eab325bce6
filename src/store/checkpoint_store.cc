#include "store/checkpoint_store.h"

#include <fcntl.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <charconv>
#include <optional>

#include "store/hash.h"
#include "store/reader.h"
#include "store/upload.h"
#include "sys/file.h"

namespace baton::store {
namespace {

constexpr const char* kIncoming = ".incoming";
constexpr const char* kShared = "shared";
constexpr const char* kKeys = "keys";
constexpr std::size_t kReadPartBytes = 256 << 10;

std::optional<std::uint64_t> parse_number(const std::string& name) {
  std::uint64_t value = 0;
  auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), value);
  if (error != std::errc() || end != name.data() + name.size() || name.empty()) return std::nullopt;
  return value;
}

std::string prefix_of(JobId job, CheckpointNumber number) {
  return fmt::format("checkpoint {} of job {}: ", number, job);
}

// Of files that go when this folder goes.
std::uint64_t unshared_bytes(const fs::path& folder) {
  std::uint64_t bytes = 0;
  std::error_code error;
  for (fs::recursive_directory_iterator entry(folder, error), end; !error && entry != end;
       entry.increment(error)) {
    struct stat info {};
    if (::lstat(entry->path().c_str(), &info) == 0 && S_ISREG(info.st_mode) && info.st_nlink == 1)
      bytes += static_cast<std::uint64_t>(info.st_size);
  }
  return bytes;
}

Result<std::vector<std::uint64_t>> numbered_entries(const fs::path& folder) {
  std::vector<std::uint64_t> numbers;
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end;
       entry.increment(error))
    if (auto number = parse_number(entry->path().filename().string())) numbers.push_back(*number);
  if (error) return fail_errno(fmt::format("read {}", folder.string()), error.value());
  return numbers;
}

}  // namespace

CheckpointStore::CheckpointStore(fs::path root, StoreOptions options)
    : root_(std::move(root)), options_(std::move(options)) {}

Result<std::unique_ptr<CheckpointStore>> CheckpointStore::open(const fs::path& root,
                                                               StoreOptions options) {
  std::unique_ptr<CheckpointStore> store(new CheckpointStore(root, std::move(options)));
  BATON_TRY(store->keys_,
            KeyRing::open(root / kKeys, store->options_.keys,
                          [s = store.get()](std::string_view step, const fs::path& path) {
                            s->observe(step, path);
                          }));
  BATON_CHECK(sys::remove_tree(root / "checkpoints" / kIncoming));
  BATON_CHECK(sys::make_directories(root / "checkpoints" / kIncoming, 0700));
  BATON_CHECK(sys::make_directories(root / kShared, 0700));
  BATON_TRY(auto shared, store->list_shared_files());
  BATON_CHECK(store->collect_shared_files(shared));
  BATON_CHECK(sys::sync_directory(root));
  return store;
}

fs::path CheckpointStore::job_directory(JobId job) const {
  return root_ / "checkpoints" / fmt::to_string(job.value);
}

fs::path CheckpointStore::directory(JobId job, CheckpointNumber number) const {
  return job_directory(job) / fmt::to_string(number.value);
}

fs::path CheckpointStore::incoming_directory() {
  std::lock_guard lock(mutex_);
  return root_ / "checkpoints" / kIncoming / fmt::to_string(next_incoming_++);
}

fs::path CheckpointStore::shared_file(std::string_view name) const {
  return root_ / kShared / name;
}

void CheckpointStore::observe(std::string_view step, const fs::path& path) const {
  if (options_.observer) options_.observer(step, path);
}

std::vector<std::string> CheckpointStore::missing_shared_files(
    JobId job, const std::vector<std::string>& hashes) const {
  std::shared_ptr<const JobKey> key;
  if (keys_) {
    auto found = keys_->find(job);
    if (!found) return hashes;  // what it had can't be read
    key = std::move(*found);
  }
  std::vector<std::string> missing;
  for (const auto& hash : hashes)
    if (!is_hash(hash) || ::access(shared_file(shared_name(key.get(), hash)).c_str(), F_OK) != 0)
      missing.push_back(hash);
  return missing;
}

Result<std::unique_ptr<Upload>> CheckpointStore::begin_upload(JobId job, Sharing sharing) {
  std::shared_ptr<const JobKey> key;
  if (keys_) {
    BATON_TRY(key, keys_->find_or_make(job));
  }
  std::unique_ptr<Upload> upload(
      new Upload(*this, job, incoming_directory(), sharing, std::move(key)));
  BATON_CHECK_CTX(sys::make_directories(upload->directory_, 0700), "begin an upload");
  return upload;
}

Result<std::vector<std::pair<JobId, CheckpointNumber>>> CheckpointStore::list() const {
  std::vector<Key> found;
  BATON_TRY(auto jobs, numbered_entries(root_ / "checkpoints"));
  for (auto job : jobs) {
    BATON_TRY(auto numbers, numbered_entries(job_directory(JobId(job))));
    for (auto number : numbers) found.emplace_back(JobId(job), CheckpointNumber(number));
  }
  return found;
}

Result<std::unique_ptr<Reader>> CheckpointStore::open_reader(JobId job, CheckpointNumber number) {
  Key key(job, number);
  {
    std::lock_guard lock(mutex_);
    if (removals_put_off_.contains(key))
      return fail(ErrorCode::NotFound,
                  fmt::format("checkpoint {} of job {} is being removed", number, job));
    ++pins_[key];
  }
  std::unique_ptr<Reader> reader(new Reader(*this, key));
  BATON_CHECK(reader->load());
  return reader;
}

Result<std::vector<std::string>> CheckpointStore::list_shared_files() const {
  std::vector<std::string> hashes;
  std::error_code error;
  for (fs::directory_iterator entry(root_ / kShared, error), end; !error && entry != end;
       entry.increment(error))
    hashes.push_back(entry->path().filename().string());
  if (error) return fail_errno(fmt::format("read {}", root_.string()), error.value());
  return hashes;
}

// Whether it is encrypted, by whichever job's key, and is what its name says.
Result<bool> CheckpointStore::is_sealed_and_whole(const std::string& name) const {
  const fs::path path = shared_file(name);
  BATON_TRY(Fd file, sys::open_file(path, O_RDONLY | O_NOFOLLOW));
  if (!is_sealed(file.get())) return false;
  BATON_TRY(const SealedHead head, read_sealed_head(file.get()));
  auto key = keys_->find(JobId(head.job));
  if (!key && keys_->is_forgotten(JobId(head.job))) return fail(std::move(key).error());
  if (!key) return fail(ErrorCode::Damaged, key.error().message());
  BATON_TRY(const auto source,
            SealedSource::open(std::move(file), path.string(), *key, std::nullopt));
  Hasher hasher;
  std::string part;
  std::uint64_t offset = 0;
  do {  // an empty one as well
    part.resize(std::min<std::uint64_t>(kReadPartBytes, head.bytes - offset));
    BATON_CHECK(source->read(part.data(), part.size(), offset));
    hasher.update(part);
    offset += part.size();
  } while (offset < head.bytes);
  if (shared_name(key->get(), hasher.hex()) != name)
    return fail(ErrorCode::Damaged, "its checksum is wrong");
  return true;
}

Result<CheckpointStore::SharedFileCheck> CheckpointStore::check_shared_file(
    const std::string& name) {
  const fs::path path = shared_file(name);
  SharedFileCheck check;
  struct stat info {};
  if (::stat(path.c_str(), &info) == 0) check.bytes = static_cast<std::uint64_t>(info.st_size);
  const Result<bool> sealed = keys_ ? is_sealed_and_whole(name) : Result<bool>(false);
  if (sealed && *sealed) return check;
  // Collected meanwhile, or about to be because its job was removed.
  if (!sealed && sealed.error().code() == ErrorCode::NotFound) return check;
  auto found = hash_file(path);
  if (found && *found == name) return check;
  if (!found && found.error().code() == ErrorCode::NotFound) return check;
  std::string why = found ? "its checksum is wrong" : found.error().message();
  if (!sealed) why = sealed.error().message();
  check.damage = fmt::format("{}: {}", path.string(), why);
  BATON_TRY(check.holders, holders(path));
  if (::unlink(path.c_str()) != 0 && errno != ENOENT)
    return fail_errno(fmt::format("remove {}", path.string()));
  return check;
}

// Whose checkpoints have a link to this very file.
Result<std::vector<CheckpointStore::Key>> CheckpointStore::holders(const fs::path& shared) const {
  BATON_TRY(auto keys, list());
  std::erase_if(keys, [&](const Key& key) {
    return std::ranges::none_of(kSharedFolders, [&](const char* folder) {
      std::error_code absent;
      return fs::equivalent(directory(key.first, key.second) / folder / shared.filename(), shared,
                            absent);
    });
  });
  std::ranges::sort(keys);
  return keys;
}

Status CheckpointStore::verify(JobId job, CheckpointNumber number) {
  BATON_TRY(auto reader, open_reader(job, number));
  for (const auto& file : reader->manifest().files)
    BATON_CHECK(
        reader->read(file, kReadPartBytes, [](std::string_view, bool) { return Status(); }));
  return {};
}

Result<CheckpointStore::CheckpointCheck> CheckpointStore::check(JobId job, CheckpointNumber number,
                                                                const CheckOptions& options) {
  CheckpointCheck check;
  auto note = [&](const Error& error) {
    std::string what = error.message();
    const std::string prefix = prefix_of(job, number);
    if (what.starts_with(prefix)) what.erase(0, prefix.size());
    check.damage.push_back(std::move(what));
  };
  auto reader = open_reader(job, number);
  if (!reader && reader.error().code() == ErrorCode::NotFound) return fail(reader.error());
  if (!reader) {
    note(reader.error());
    return check;
  }
  for (const auto& file : (*reader)->manifest().files) {
    ++check.files;
    check.bytes += file.size;
    if (options.skip && options.skip(file, (*reader)->place(file))) continue;
    Status paced;
    Status status = (*reader)->read(file, kReadPartBytes, [&](std::string_view data, bool) {
      if (options.pace) paced = options.pace(data.size());
      return paced;
    });
    BATON_CHECK(paced);
    if (!status) note(status.error());
  }
  return check;
}

Status CheckpointStore::remove(JobId job, CheckpointNumber number) {
  Key key(job, number);
  {
    std::lock_guard lock(mutex_);
    if (pins_.contains(key)) {
      removals_put_off_.insert(key);
      return {};
    }
  }
  return remove_now(key);
}

Status CheckpointStore::remove_now(const Key& key) {
  fs::path path = directory(key.first, key.second);
  std::vector<std::string> shared;
  for (const char* folder : kSharedFolders) {
    std::error_code ignored;
    for (fs::directory_iterator entry(path / folder, ignored), end; !ignored && entry != end;
         entry.increment(ignored))
      shared.push_back(entry->path().filename().string());
  }
  fs::path aside = incoming_directory();
  if (::rename(path.c_str(), aside.c_str()) != 0) {
    if (errno == ENOENT) return {};
    return fail_errno(fmt::format("remove {}", path.string()));
  }
  const std::uint64_t bytes = unshared_bytes(aside);
  BATON_CHECK(sys::remove_tree(aside));
  freed_bytes_ += bytes;
  return collect_shared_files(shared);
}

Status CheckpointStore::forget_key(JobId job) {
  return keys_ ? keys_->forget(job, KeyRing::Forget::ForGood) : Status();
}

Status CheckpointStore::remove_job(JobId job) {
  const Status forgotten = forget_key(job);
  BATON_CHECK(remove_all(job));
  return forgotten;
}

Status CheckpointStore::remove_leftovers(JobId job) {
  const Status forgotten = keys_ ? keys_->forget(job, KeyRing::Forget::SoFar) : Status();
  BATON_CHECK(remove_all(job));
  return forgotten;
}

Result<std::vector<JobId>> CheckpointStore::jobs_with_keys() const {
  if (!keys_) return std::vector<JobId>();
  return keys_->list();
}

Status CheckpointStore::remove_all(JobId job) {
  BATON_CHECK(collect_unused(job));
  fs::path folder = job_directory(job);
  if (::access(folder.c_str(), F_OK) != 0) return {};
  BATON_TRY(auto numbers, numbered_entries(folder));
  for (auto number : numbers) BATON_CHECK(remove(job, CheckpointNumber(number)));
  // Not empty while a reader holds one of them; then the last reader takes the folder away.
  if (::rmdir(folder.c_str()) != 0 && errno != ENOTEMPTY && errno != ENOENT)
    return fail_errno(fmt::format("remove {}", folder.string()));
  return {};
}

void CheckpointStore::note_unused(JobId job, std::vector<std::string> names) {
  std::lock_guard lock(mutex_);
  auto& unused = unused_[job];
  unused.insert(unused.end(), names.begin(), names.end());
}

Status CheckpointStore::collect_unused(JobId job) {
  std::vector<std::string> names;
  {
    std::lock_guard lock(mutex_);
    if (auto found = unused_.extract(job)) names = std::move(found.mapped());
  }
  return collect_shared_files(names);
}

// A file that no checkpoint links to any more has one link left: ours.
Status CheckpointStore::collect_shared_files(const std::vector<std::string>& names) {
  std::lock_guard lock(mutex_);
  for (const auto& name : names) {
    fs::path shared = shared_file(name);
    struct stat info {};
    if (::lstat(shared.c_str(), &info) != 0 || info.st_nlink > 1) continue;
    if (::unlink(shared.c_str()) != 0 && errno != ENOENT)
      return fail_errno(fmt::format("remove {}", shared.string()));
    freed_bytes_ += static_cast<std::uint64_t>(info.st_size);
  }
  return {};
}

bool CheckpointStore::is_being_removed(JobId job, CheckpointNumber number) const {
  std::lock_guard lock(mutex_);
  return removals_put_off_.contains(Key(job, number));
}

void CheckpointStore::unpin(const Key& key) {
  {
    std::lock_guard lock(mutex_);
    if (--pins_[key] > 0) return;
    pins_.erase(key);
    if (removals_put_off_.erase(key) == 0) return;
  }
  // What can't be removed now is removed by the next start: nothing records it any more.
  (void)remove_now(key);
  ::rmdir(job_directory(key.first).c_str());
}

std::uint64_t CheckpointStore::free_bytes() const {
  struct statvfs info {};
  if (::statvfs(root_.c_str(), &info) != 0) return 0;
  return static_cast<std::uint64_t>(info.f_bavail) * info.f_frsize;
}

}  // namespace baton::store
