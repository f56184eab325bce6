#include "agent/engine/private_files.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <ctime>
#include <optional>

#include "agent/engine/checkpoint_layout.h"
#include "base/fault.h"
#include "base/log.h"
#include "store/tree_archive.h"
#include "sys/file.h"

namespace baton::agent {
namespace {

namespace fs = std::filesystem;

// Below, reading the file costs about as much as knowing that it need not be read.
constexpr std::uint64_t large_bytes = 64 << 10;
// A checkpoint has a limited number of files; what does not fit is in the archive, whole.
constexpr std::size_t chunks_max = 32'768;
// More than the grain of a file's times, which is that of the kernel's tick. Also: a file that was
// written just now is being written.
constexpr std::int64_t settled_ns = 50'000'000;
constexpr unsigned backoff_max = 6;

std::int64_t now_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  return now.tv_sec * 1'000'000'000 + now.tv_nsec;
}

bool is_settled(const struct stat& info, std::int64_t at_ns) {
  return info.st_ctim.tv_sec * 1'000'000'000 + info.st_ctim.tv_nsec < at_ns - settled_ns;
}

bool is_large(const struct stat& info) {
  return static_cast<std::uint64_t>(info.st_size) >= large_bytes;
}

// CRIU's own, in the tree "run".
constexpr const char* criu_cache = "criu.kdat";
constexpr const char* criu_cache_aside = "criu.kdat.tmp";

std::set<fs::path> criu_files(const std::vector<PrivateTree>& trees) {
  std::set<fs::path> paths;
  for (const PrivateTree& tree : trees)
    if (tree.name == "run") paths = {tree.folder / criu_cache, tree.folder / criu_cache_aside};
  return paths;
}

}  // namespace

struct PrivateFiles::Candidate {
  const PrivateTree* tree;
  std::string path;
  struct stat info {};
};

class PrivateFiles::Frozen {
 public:
  Frozen(const Processes& processes, const Unforeseen& unforeseen)
      : unforeseen(unforeseen), processes_(processes) {}

  // Null: it can't be told.
  const SharedMappings* mappings() {
    if (!mappings_) mappings_ = shared_mappings(processes_);
    return *mappings_ ? &**mappings_ : nullptr;
  }

  const Unforeseen& unforeseen;
  std::vector<store::FileContent> contents;  // of the tree that is being archived
  std::size_t chunks = 0;                    // of all trees

 private:
  const Processes& processes_;
  std::optional<Result<SharedMappings>> mappings_;
};

Status PrivateFiles::ensure_chunks() {
  if (chunks_) return {};
  BATON_TRY(chunks_, ChunkFolder::create(chunks_directory_));
  return {};
}

void PrivateFiles::build_on(const fs::path& checkpoint) {
  auto adopt = [&]() -> Status {
    BATON_CHECK(ensure_chunks());
    std::error_code error;
    for (fs::directory_iterator entry(checkpoint / layout::files_folder, error), end;
         !error && entry != end; entry.increment(error))
      BATON_CHECK(chunks_->adopt(entry->path(), entry->path().filename()));
    return {};
  };
  // Nothing is lost but that the next checkpoint stores them again.
  if (auto adopted = adopt(); !adopted)
    spdlog::info("private files of {} are not used again: {}", checkpoint.string(),
                 adopted.error().message());
}

void PrivateFiles::before_freeze(const Sandbox& sandbox) {
  ++checkpoint_;
  stats_ = {};
  freeze_bytes_ = 0;
  foreseen_.clear();
  needed_.clear();
  archived_.reset();
  no_space_ = false;
  if (chunks_) chunks_->take_new_bytes();  // of a checkpoint that failed
  auto copied = try_before_freeze(sandbox);
  if (copied) return;
  no_space_ = copied.error().code() == ErrorCode::NoSpace;
  spdlog::warn("private files can't be copied before the freeze: {}", copied.error().message());
}

Status PrivateFiles::try_before_freeze(const Sandbox& sandbox) {
  BATON_TRY(const auto trees, open_private_trees(sandbox));
  known_.look_for_changes();
  began_ns_ = now_ns();
  auto candidates = find_candidates(trees);
  if (candidates.empty()) return {};
  BATON_CHECK(ensure_chunks());
  BATON_CHECK(fault("files.before_freeze"));
  std::erase_if(candidates, [&](const Candidate& candidate) {
    KnownFile& known = known_[FileId(candidate.info)];
    known.unchanged = false;
    const Fd file = open(candidate);
    return !file.valid() || !known_.watch(*candidate.tree, candidate.path, file.get(), known);
  });
  // After the watches: a mapping made from here on takes a descriptor, whose end is reported.
  auto mapped = shared_mappings([&] { return sandbox.processes(); });
  if (!mapped) {
    spdlog::info("private files are copied in the freeze: {}", mapped.error().message());
    return {};
  }
  auto go_on = [&] {
    pollfd ended{sandbox.ended_fd(), POLLIN, 0};
    return ::poll(&ended, 1, 0) == 0;
  };
  for (const auto& candidate : candidates)
    BATON_CHECK(copy_before_freeze(candidate, *mapped, go_on));
  return {};
}

// Counts what the freeze will have to copy unless it is copied now.
std::vector<PrivateFiles::Candidate> PrivateFiles::find_candidates(
    const std::vector<PrivateTree>& trees) {
  std::vector<Candidate> candidates;
  std::set<FileId> seen;
  for (const PrivateTree& tree : trees)
    visit_files(tree, [&](const std::string& path, const struct stat& info) {
      const FileId id(info);
      if (info.st_nlink > 1 && !seen.insert(id).second) return;
      if (!is_large(info)) {
        freeze_bytes_ += static_cast<std::uint64_t>(info.st_size);
        return;
      }
      const KnownFile* known = known_.find(id);
      if (known && known->unchanged && known->wasted == 0 && same_status(known->copied, info))
        return;
      freeze_bytes_ += static_cast<std::uint64_t>(info.st_size);
      foreseen_.insert(id);
      if (known && known->unchanged && same_status(known->copied, info)) return;
      if (is_worth_a_copy(known, info)) candidates.push_back({&tree, path, info});
    });
  return candidates;
}

// Not valid when the file is not any more what it was.
Fd PrivateFiles::open(const Candidate& candidate) {
  auto file = sys::open_beneath(candidate.tree->outside.get(), candidate.path,
                                O_RDONLY | O_NOFOLLOW | O_NOATIME | O_NONBLOCK, true);
  struct stat info {};
  if (!file || ::fstat(file->get(), &info) != 0 || FileId(info) != FileId(candidate.info) ||
      !same_status(info, candidate.info))
    return {};
  return std::move(*file);
}

// One that changes between its copy and the freeze each time is tried less and less often.
bool PrivateFiles::is_worth_a_copy(const KnownFile* known, const struct stat& info) const {
  if (!is_settled(info, began_ns_)) return false;
  if (!known || known->wasted == 0) return true;
  return checkpoint_ - known->tried_in >= (1u << std::min(known->wasted, backoff_max));
}

Status PrivateFiles::copy_before_freeze(const Candidate& candidate, const SharedMappings& mapped,
                                        const std::function<bool()>& go_on) {
  const struct stat& info = candidate.info;
  KnownFile& known = known_[FileId(info)];
  if (mapped.contains(*known.inside) || mapped.contains(FileId(info))) return {};
  const Fd file = open(candidate);
  if (!file.valid()) return {};
  auto content = chunks_->add(file.get(), info, go_on);
  if (!content && content.error().code() == ErrorCode::Damaged) return {};  // it became shorter
  if (!content) return fail(std::move(content).error().context(candidate.path));
  const auto bytes = static_cast<std::uint64_t>(info.st_size);
  stats_.precopied_bytes += bytes;
  known.copied_in = known.tried_in = checkpoint_;
  known.content = std::move(*content);
  known.copied = info;
  known.unchanged = true;
  known.times_tell = candidate.tree->times_tell_of_stores && !mapped.asynchronous_io;
  if (known.wasted > 0) return {};
  foreseen_.erase(FileId(info));
  freeze_bytes_ -= bytes;
  return {};
}

void PrivateFiles::when_stopped(const Sandbox& sandbox, const Processes& processes,
                                const fs::path& checkpoint, const Unforeseen& unforeseen) {
  Frozen frozen(processes, unforeseen);
  const SharedMappings* mapped = frozen.mappings();
  if (!mapped || mapped->asynchronous_io) return;
  const auto trees = open_private_trees(sandbox);
  if (!trees) return;
  auto print = fingerprint(*trees, criu_files(*trees));
  if (!print) return;
  Archived archived{processes, std::move(*print), {}};
  if (archive(*trees, checkpoint, frozen, archived.records)) archived_ = std::move(archived);
}

Status PrivateFiles::in_freeze(const Sandbox& sandbox, const Processes& processes,
                               const fs::path& checkpoint, std::vector<TreeRecord>& records,
                               const Unforeseen& unforeseen) {
  BATON_TRY(const auto trees, open_private_trees(sandbox));
  const auto archived = std::exchange(archived_, std::nullopt);
  if (archived && archived->processes == processes &&
      archived->fingerprint == fingerprint(trees, criu_files(trees))) {
    records = archived->records;
    return {};
  }
  stats_.unread_bytes = 0;
  Frozen frozen(processes, unforeseen);
  return archive(trees, checkpoint, frozen, records);
}

Status PrivateFiles::archive(const std::vector<PrivateTree>& trees, const fs::path& checkpoint,
                             Frozen& frozen, std::vector<TreeRecord>& records) {
  BATON_CHECK(ensure_chunks());
  known_.look_for_changes();
  for (const PrivateTree& tree : trees) {
    TreeRecord record{tree.name, layout::tree_archive(records.size()), {}};
    store::TreeArchiveOptions options;
    if (tree.name == "run") options.exclude = {criu_cache, criu_cache_aside};
    options.keep_elsewhere = [&](int file, const std::string& path, const struct stat& info) {
      return keep_elsewhere(frozen, tree, file, path, info);
    };
    BATON_CHECK(fault("files.archive"));
    BATON_CHECK(store::archive_tree(tree.folder, checkpoint / record.archive, options));
    record.contents = std::exchange(frozen.contents, {});
    records.push_back(std::move(record));
  }
  stats_.new_bytes += chunks_->take_new_bytes();
  return {};
}

Result<std::optional<std::uint64_t>> PrivateFiles::keep_elsewhere(Frozen& frozen,
                                                                  const PrivateTree& tree, int file,
                                                                  const std::string& path,
                                                                  const struct stat& info) {
  if (!is_large(info)) return std::nullopt;
  const auto bytes = static_cast<std::uint64_t>(info.st_size);
  const FileId id(info);
  KnownFile* known = known_.find(id);
  const bool right = is_right(frozen, known, file, info);
  if (right)
    known->wasted = 0;
  else if (known && known->tried_in == checkpoint_)
    ++known->wasted;
  frozen.chunks += (bytes + store::kFileChunkBytes - 1) / store::kFileChunkBytes;
  const bool fits = frozen.chunks <= chunks_max;
  if (!(right && fits) && !foreseen_.contains(id)) frozen.unforeseen(bytes);
  if (!fits) return std::nullopt;
  if (right) {
    stats_.unread_bytes += known->copied_in == checkpoint_ ? 0 : bytes;
  } else {
    known = &known_[id];
    BATON_CHECK(copy_in_freeze(frozen, tree, file, path, info, *known));
  }
  known->needed_in = checkpoint_;
  collect(known->content, needed_);
  frozen.contents.push_back(known->content);
  return frozen.contents.size() - 1;
}

bool PrivateFiles::is_right(Frozen& frozen, KnownFile* known, int file,
                            const struct stat& info) const {
  if (!known || !known->unchanged || !same_status(known->copied, info)) return false;
  if (is_open_for_reading_only(file)) return true;
  if (!known->times_tell) return false;
  const SharedMappings* mapped = frozen.mappings();
  return mapped && !mapped->contains(*known->inside) && !mapped->contains(FileId(info));
}

Status PrivateFiles::copy_in_freeze(Frozen& frozen, const PrivateTree& tree, int file,
                                    const std::string& path, const struct stat& info,
                                    KnownFile& known) {
  known.unchanged = false;
  known.provisional = true;
  const bool watched = known_.watch(tree, path, file, known);
  BATON_TRY(known.content, chunks_->add(file, info));
  stats_.frozen_bytes += known.content.size;
  known.copied = info;
  known.copied_in = checkpoint_;
  if (!watched) return {};
  if (is_open_for_reading_only(file)) {
    known.unchanged = true;
    known.times_tell = tree.times_tell_of_stores && is_settled(info, now_ns());
  } else if (const SharedMappings* mapped = frozen.mappings()) {
    known.unchanged = !mapped->contains(*known.inside) && !mapped->contains(FileId(info));
    known.times_tell =
        tree.times_tell_of_stores && is_settled(info, now_ns()) && !mapped->asynchronous_io;
  }
  return {};
}

Status PrivateFiles::save(const fs::path& checkpoint) {
  if (needed_.empty()) return {};
  BATON_CHECK(sys::make_directories(checkpoint / layout::files_folder, 0700));
  return chunks_->link(needed_, checkpoint / layout::files_folder);
}

void PrivateFiles::keep() {
  known_.erase_if([&](const KnownFile& known) { return known.needed_in != checkpoint_; });
  known_.for_each([](const FileId&, KnownFile& known) { known.provisional = false; });
  last_needed_ = std::move(needed_);
  needed_.clear();
  if (chunks_) chunks_->keep_only(last_needed_);
}

// The job may have run on while it was copied "in the freeze".
void PrivateFiles::abandon() {
  known_.for_each([](const FileId&, KnownFile& known) {
    if (std::exchange(known.provisional, false)) known.unchanged = false;
  });
  needed_.clear();
  archived_.reset();
  if (!no_space_ || !chunks_) return;
  // The room is the job's.
  known_.erase_if([&](const KnownFile& known) { return known.copied_in == checkpoint_; });
  chunks_->keep_only(last_needed_);
}

void PrivateFiles::forget() {
  known_.clear();
  chunks_.reset();
  last_needed_.clear();
}

}  // namespace baton::agent
