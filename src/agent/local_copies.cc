#include "agent/local_copies.h"

#include <fcntl.h>
#include <google/protobuf/util/json_util.h>
#include <sys/stat.h>

#include <cstdio>
#include <cstdlib>

#include "base/log.h"
#include "store/hash.h"
#include "sys/file.h"

namespace baton::agent {
namespace {

namespace fs = std::filesystem;

constexpr const char* kCopyName = "copy.json";
constexpr const char* kStagedName = "staged";
constexpr std::size_t kWholeFilesRemembered = 1'000'000;

std::string to_json(const pb::Checkpoint& info) {
  std::string text;
  (void)google::protobuf::util::MessageToJsonString(info, &text);
  return text;
}

Result<std::shared_ptr<LocalCopy>> load(const fs::path& folder, std::shared_ptr<WholeFiles> whole) {
  BATON_TRY(std::string text, sys::read_file(folder / kCopyName));
  BATON_TRY(store::Manifest manifest, store::decode_manifest(text));
  pb::Checkpoint info;
  if (!google::protobuf::util::JsonStringToMessage(manifest.info_json, &info).ok())
    return fail(ErrorCode::Damaged, fmt::format("{}: its description is wrong", folder.string()));
  return std::make_shared<LocalCopy>(folder, std::move(info), std::move(manifest.files),
                                     std::move(whole));
}

}  // namespace

std::optional<std::string> WholeFiles::key(const fs::path& file, const std::string& hash) {
  struct stat info {};
  if (::lstat(file.c_str(), &info) != 0) return std::nullopt;
  return fmt::format("{} {} {} {} {}.{}", hash, info.st_dev, info.st_ino, info.st_size,
                     info.st_mtim.tv_sec, info.st_mtim.tv_nsec);
}

void WholeFiles::add(const fs::path& file, const std::string& hash) {
  auto own = key(file, hash);
  std::lock_guard lock(mutex_);
  if (known_.size() >= kWholeFilesRemembered) known_.clear();  // they are only read once more
  if (own) known_.insert(std::move(*own));
}

bool WholeFiles::contains(const fs::path& file, const std::string& hash) const {
  const auto own = key(file, hash);
  std::lock_guard lock(mutex_);
  return own && known_.contains(*own);
}

LocalCopy::LocalCopy(fs::path folder, pb::Checkpoint info, std::vector<store::StoredFile> files,
                     std::shared_ptr<WholeFiles> whole)
    : folder_(std::move(folder)),
      info_(std::move(info)),
      files_(std::move(files)),
      whole_(std::move(whole)) {}

bool LocalCopy::staged() const {
  std::error_code error;
  return fs::exists(folder_ / kStagedName, error);
}

LocalCopy::~LocalCopy() {
  if (!discarded_) return;
  if (auto status = sys::remove_tree(folder_); !status)
    spdlog::warn("remove a superseded local copy: {}", status.error().message());
}

void LocalCopy::unstage() {
  std::error_code error;
  fs::remove(folder_ / kStagedName, error);
  if (error) spdlog::warn("{}: {}", folder_.string(), error.message());
}

std::set<std::string> LocalCopy::whole_shared_files() const {
  std::set<std::string> whole;
  for (const auto& file : files_) {
    if (store::shared_file_hash(file.path).empty()) continue;
    const fs::path path = directory() / file.path;
    if (!whole_->contains(path, file.xxh3_128)) {
      auto hash = store::hash_file(path);
      if (!hash || *hash != file.xxh3_128) continue;
      whole_->add(path, *hash);
    }
    whole.insert(file.xxh3_128);
  }
  return whole;
}

Status LocalCopy::verify(const std::set<std::string>& whole) const {
  for (const auto& file : files_) {
    if (whole.contains(std::string(store::shared_file_hash(file.path)))) continue;
    auto hash = store::hash_file(directory() / file.path);
    if (!hash || *hash != file.xxh3_128)
      return fail(ErrorCode::Damaged,
                  fmt::format("local copy of checkpoint {}: {} is missing or differs",
                              info_.number(), file.path));
  }
  return {};
}

Result<std::unique_ptr<LocalCopies>> LocalCopies::open(const fs::path& root) {
  BATON_CHECK(sys::make_directories(root, 0700));
  std::unique_ptr<LocalCopies> copies(new LocalCopies(root));
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(root, error)) {
    auto copy = load(entry.path(), copies->whole_);
    if (!copy) {
      BATON_CHECK(sys::remove_tree(entry.path()));
      continue;
    }
    auto& slot = copies->copies_[JobId((*copy)->info().job_id())];
    if (slot && slot->info().number() > (*copy)->info().number()) {
      (*copy)->discard();
      continue;
    }
    if (slot) slot->discard();
    slot = std::move(*copy);
  }
  if (error) return fail_errno(root.string(), error.value());
  return copies;
}

Result<std::shared_ptr<LocalCopy>> LocalCopies::keep(const pb::Checkpoint& info,
                                                     const fs::path& directory,
                                                     std::vector<store::StoredFile> files,
                                                     bool staged) {
  drop(JobId(info.job_id()));
  // Never the name of an earlier copy: someone may hold that one still, and removes it at the end.
  std::string name = (root_ / fmt::format("{}.{}.XXXXXX", info.job_id(), info.number())).string();
  if (::mkdtemp(name.data()) == nullptr) return fail_errno(fmt::format("mkdtemp {}", name));
  const fs::path folder = name;
  store::Manifest manifest{JobId(info.job_id()), CheckpointNumber(info.number()), to_json(info),
                           files};
  // Nothing is made durable: table and files are verified before a copy is used.
  auto write_table = [&]() -> Status {
    BATON_TRY(Fd fd, sys::open_file(folder / kCopyName, O_WRONLY | O_CREAT | O_EXCL, 0600));
    BATON_CHECK(sys::write_all(fd.get(), store::encode_manifest(manifest)));
    if (!staged) return {};
    BATON_TRY(Fd mark, sys::open_file(folder / kStagedName, O_WRONLY | O_CREAT | O_EXCL, 0600));
    return {};
  };
  if (auto written = write_table(); !written) {
    (void)sys::remove_tree(folder);
    return fail(written.error());
  }
  if (::rename(directory.c_str(), (folder / "checkpoint").c_str()) != 0) {
    auto error = fail_errno(fmt::format("rename {}", directory.string()));
    (void)sys::remove_tree(folder);
    return error;
  }
  for (const auto& file : files)
    if (!store::shared_file_hash(file.path).empty())
      whole_->add(folder / "checkpoint" / file.path, file.xxh3_128);
  auto copy = std::make_shared<LocalCopy>(folder, info, std::move(files), whole_);
  std::lock_guard lock(mutex_);
  copies_[JobId(info.job_id())] = copy;
  return copy;
}

std::shared_ptr<LocalCopy> LocalCopies::find(JobId job) const {
  std::lock_guard lock(mutex_);
  auto found = copies_.find(job);
  return found == copies_.end() ? nullptr : found->second;
}

void LocalCopies::drop(JobId job) {
  std::shared_ptr<LocalCopy> last;  // removed from disk after the lock is released
  std::lock_guard lock(mutex_);
  auto found = copies_.find(job);
  if (found == copies_.end()) return;
  found->second->discard();
  last = std::move(found->second);
  copies_.erase(found);
}

void LocalCopies::keep_only(const std::set<JobId>& jobs) {
  std::vector<JobId> others;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [job, copy] : copies_)
      if (!jobs.contains(job) && !copy->staged()) others.push_back(job);
  }
  for (JobId job : others) drop(job);
}

std::vector<std::shared_ptr<LocalCopy>> LocalCopies::staged() const {
  std::vector<std::shared_ptr<LocalCopy>> result;
  std::lock_guard lock(mutex_);
  for (const auto& [job, copy] : copies_)
    if (copy->staged()) result.push_back(copy);
  return result;
}

void LocalCopies::unstage(JobId job) {
  if (auto copy = find(job)) copy->unstage();
}

bool same_checkpoint(const pb::Checkpoint& a, const pb::Checkpoint& b) {
  return a.job_id() == b.job_id() && a.number() == b.number() && a.generation() == b.generation() &&
         a.taken_wall_ms() == b.taken_wall_ms() && a.output_bytes() == b.output_bytes() &&
         a.node() == b.node();
}

}  // namespace baton::agent
