#include "store/upload.h"

#include <fcntl.h>

#include "base/fault.h"
#include "store/reader.h"
#include "sys/file.h"

namespace baton::store {
namespace {

// Concurrent fsyncs share journal commits.
constexpr std::size_t kSyncThreads = 4;
constexpr std::size_t kMaxWaitingToSync = 64;
constexpr std::uint64_t kMaxFileBytes = std::uint64_t{1} << 44;

}  // namespace

Upload::Upload(CheckpointStore& store, JobId job, fs::path directory,
               CheckpointStore::Sharing sharing, std::shared_ptr<const JobKey> key)
    : store_(store),
      job_(job),
      directory_(std::move(directory)),
      sharing_(sharing),
      key_(std::move(key)),
      folders_{directory_} {}

Upload::~Upload() {
  if (keep_ && !published_) leave_shared_files();
  {
    std::lock_guard lock(mutex_);
    closing_ = true;
    to_sync_.clear();
  }
  changed_.notify_all();
  for (auto& thread : threads_) thread.join();
  current_.reset();
  // What can't be removed now is removed by the next start.
  if (!published_) (void)sys::remove_tree(directory_);
}

fs::path Upload::place(const std::string& path) const {
  return directory_ / name_on_disk(key_.get(), path);
}

Status Upload::check_new(const std::string& path, std::uint64_t size) {
  if (current_.valid())
    return fail(ErrorCode::InvalidArgument,
                fmt::format("{} begins before {} has ended", path, files_.back().path));
  BATON_CHECK(check_path(path));
  if (files_.size() >= kMaxFiles)
    return fail(ErrorCode::InvalidArgument,
                fmt::format("a checkpoint has at most {} files", kMaxFiles));
  if (size > kMaxFileBytes)
    return fail(ErrorCode::InvalidArgument, fmt::format("{}: size {} is absurd", path, size));
  if (in_shared_folder(path) && shared_file_hash(path).empty())
    return fail(ErrorCode::InvalidArgument,
                fmt::format("{}: such a file is named by its content's hash", path));
  if (!paths_.insert(path).second)
    return fail(ErrorCode::InvalidArgument, fmt::format("{} came twice", path));
  if (folders_.contains(directory_ / path))
    return fail(ErrorCode::InvalidArgument, fmt::format("{} is a folder already", path));
  return make_parents(path);
}

Status Upload::make_parents(const std::string& path) {
  for (std::size_t slash = path.find('/'); slash != std::string::npos;
       slash = path.find('/', slash + 1)) {
    const std::string parent = path.substr(0, slash);
    if (paths_.contains(parent))
      return fail(ErrorCode::InvalidArgument,
                  fmt::format("{} is in {}, which is a file already", path, parent));
    fs::path folder = directory_ / parent;
    if (!folders_.insert(folder).second) continue;
    if (::mkdir(folder.c_str(), 0700) != 0)
      return fail_errno(fmt::format("mkdir {}", folder.string()));
  }
  return {};
}

Status Upload::begin_file(const std::string& path, std::uint64_t size, std::uint32_t mode) {
  BATON_CHECK(check_new(path, size));
  BATON_TRY(current_, sys::open_file(place(path), O_WRONLY | O_CREAT | O_EXCL, 0600));
  files_.push_back({path, size, mode & 07777, ""});
  if (key_) files_.back().sealed = sealing_.emplace(*key_, size).id();
  hasher_.reset();
  written_ = 0;
  return {};
}

Status Upload::write(std::string_view data) {
  if (!current_.valid()) return fail(ErrorCode::InvalidArgument, "data outside of a file");
  const auto& file = files_.back();
  if (data.size() > file.size - written_)
    return fail(ErrorCode::InvalidArgument,
                fmt::format("{}: more bytes than the announced {}", file.path, file.size));
  BATON_CHECK(fault("store.write"));
  BATON_CHECK_CTX(
      sealing_ ? sealing_->write(current_.get(), data) : sys::write_all(current_.get(), data),
      fmt::format("store {}", file.path));
  hasher_.update(data);
  written_ += data.size();
  new_bytes_ += data.size();
  return {};
}

Status Upload::end_file(const std::string& xxh3_128) {
  if (!current_.valid()) return fail(ErrorCode::InvalidArgument, "the end of no file");
  auto& file = files_.back();
  if (written_ != file.size)
    return fail(ErrorCode::Damaged, fmt::format("{} arrived with {} bytes, expected {}", file.path,
                                                written_, file.size));
  file.xxh3_128 = hasher_.hex();
  if (file.xxh3_128 != xxh3_128)
    return fail(ErrorCode::Damaged, fmt::format("{} arrived with a wrong checksum", file.path));
  auto base = shared_file_hash(file.path);
  if (!base.empty() && base != xxh3_128)
    return fail(ErrorCode::Damaged, fmt::format("{} has another content's hash", file.path));
  if (sealing_)
    BATON_CHECK_CTX(sealing_->finish(current_.get()), fmt::format("store {}", file.path));
  sealing_.reset();
  enqueue_sync({std::move(current_), place(file.path), "sync-file"});
  return {};
}

Status Upload::link_shared_file(const std::string& path, std::uint64_t size, std::uint32_t mode) {
  BATON_CHECK(check_new(path, size));
  std::string hash(shared_file_hash(path));
  if (hash.empty())
    return fail(ErrorCode::InvalidArgument,
                fmt::format("{} is not a file that checkpoints share", path));
  fs::path shared = store_.shared_file(shared_name(key_.get(), hash));
  const fs::path linked = place(path);
  if (::link(shared.c_str(), linked.c_str()) != 0) {
    if (errno != ENOENT) return fail_errno(fmt::format("link {}", shared.string()));
    return fail(ErrorCode::NotFound, fmt::format("{} is not in the store: send it", path));
  }
  BATON_TRY(Fd file, sys::open_file(linked, O_RDONLY | O_NOFOLLOW));
  struct stat info {};
  if (::fstat(file.get(), &info) != 0) return fail_errno(fmt::format("stat {}", path));
  bool fits = static_cast<std::uint64_t>(info.st_size) == (key_ ? sealed_bytes(size) : size);
  std::string sealed;
  if (key_ && fits) {
    const auto head = read_sealed_head(file.get());
    fits = head && head->job == job_.value && head->bytes == size;
    if (fits) sealed = head->id();
  }
  if (!fits) {
    ::unlink(shared.c_str());
    return fail(ErrorCode::NotFound, fmt::format("{} in the store is damaged: send it", path));
  }
  files_.push_back({path, size, mode & 07777, hash, std::move(sealed)});
  return {};
}

void Upload::enqueue_sync(ToSync item) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return to_sync_.size() < kMaxWaitingToSync; });
  to_sync_.push_back(std::move(item));
  if (threads_.size() < kSyncThreads) threads_.emplace_back([this] { sync_loop(); });
  changed_.notify_all();
}

void Upload::sync_loop() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return closing_ || !to_sync_.empty(); });
    if (closing_) return;
    ToSync item = std::move(to_sync_.front());
    to_sync_.pop_front();
    ++syncing_;
    lock.unlock();
    Status status = sys::sync_file(item.fd.get(), item.path);
    item.fd.reset();
    if (status) store_.observe(item.step, item.path);
    lock.lock();
    --syncing_;
    if (!status && sync_status_) sync_status_ = std::move(status);
    changed_.notify_all();
  }
}

Status Upload::wait_synced() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return to_sync_.empty() && syncing_ == 0; });
  return sync_status_;
}

Status Upload::enqueue_folder(const fs::path& folder, const char* step) {
  BATON_TRY(Fd fd, sys::open_file(folder, O_RDONLY | O_DIRECTORY));
  enqueue_sync({std::move(fd), folder, step});
  return {};
}

// Nobody looks for it before the folder has its number.
Status Upload::write_manifest(CheckpointNumber number, const std::string& info_json) {
  const fs::path path = directory_ / (key_ ? kSealedManifestName : kManifestName);
  BATON_TRY(Fd fd, sys::open_file(path, O_WRONLY | O_CREAT | O_EXCL, 0600));
  const std::string text = encode_manifest({job_, number, info_json, files_});
  if (key_) {
    SealedWriter sealing(*key_, text.size(), manifest_purpose(number));
    BATON_CHECK_CTX(sealing.write(fd.get(), text), path.string());
    BATON_CHECK_CTX(sealing.finish(fd.get()), path.string());
  } else {
    BATON_CHECK_CTX(sys::write_all(fd.get(), text), path.string());
  }
  enqueue_sync({std::move(fd), path, "sync-file"});
  return {};
}

// Best effort: a file that isn't shared is merely sent again with the next checkpoint.
void Upload::publish_shared_files() {
  for (const auto& file : files_) {
    auto hash = shared_file_hash(file.path);
    if (!hash.empty())
      (void)::link(place(file.path).c_str(),
                   store_.shared_file(shared_name(key_.get(), hash)).c_str());
  }
}

// Only what is durable may lie under its hash: who links to it does not read it.
void Upload::leave_shared_files() {
  current_.reset();
  std::erase_if(files_, [](const StoredFile& file) { return file.xxh3_128.empty(); });
  if (sharing_ != CheckpointStore::Sharing::All || !wait_synced()) return;
  publish_shared_files();
  std::vector<std::string> names;
  for (const auto& file : files_)
    if (auto hash = shared_file_hash(file.path); !hash.empty())
      names.push_back(shared_name(key_.get(), hash));
  store_.note_unused(job_, std::move(names));
}

std::uint64_t Upload::total_bytes() const {
  std::uint64_t total = 0;
  for (const auto& file : files_) total += file.size;
  return total;
}

Status Upload::publish(CheckpointNumber number, const std::string& info_json) {
  if (current_.valid())
    return fail(ErrorCode::InvalidArgument,
                fmt::format("the upload ended inside of {}", files_.back().path));
  if (files_.empty()) return fail(ErrorCode::InvalidArgument, "a checkpoint without files");
  BATON_CHECK(write_manifest(number, info_json));
  for (const auto& folder : folders_) BATON_CHECK(enqueue_folder(folder, "sync-folder"));
  BATON_CHECK(wait_synced());
  BATON_CHECK(fault("store.before_rename"));
  if (sharing_ == CheckpointStore::Sharing::All) publish_shared_files();
  fs::path folder = store_.job_directory(job_);
  BATON_CHECK(sys::make_directories(folder, 0700));
  fs::path target = store_.directory(job_, number);
  if (::renameat2(AT_FDCWD, directory_.c_str(), AT_FDCWD, target.c_str(), RENAME_NOREPLACE) != 0)
    return fail_errno(fmt::format("rename {} to {}", directory_.string(), target.string()));
  published_ = true;
  store_.observe("rename", target);
  auto sync_parents = [&]() -> Status {
    BATON_CHECK(fault("store.after_rename"));
    BATON_CHECK(enqueue_folder(folder, "sync-parent"));
    BATON_CHECK(enqueue_folder(folder.parent_path(), "sync-parent"));
    return wait_synced();
  };
  if (auto status = sync_parents(); !status) {
    (void)store_.remove(job_, number);
    return status;
  }
  (void)store_.collect_unused(job_);  // else the next start does
  return {};
}

}  // namespace baton::store
