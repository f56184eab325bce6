#include "store/inventory.h"

#include <sys/stat.h>

#include <charconv>
#include <optional>

#include "store/hash.h"
#include "store/pack.h"
#include "store/reader.h"

namespace baton::store {
namespace {

std::optional<std::uint64_t> parse_number(const std::string& name) {
  std::uint64_t value = 0;
  auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), value);
  if (error != std::errc() || end != name.data() + name.size() || name.empty()) return std::nullopt;
  return value;
}

std::uint64_t bytes_below(const fs::path& path) {
  std::uint64_t bytes = 0;
  std::error_code error;
  if (fs::is_regular_file(fs::symlink_status(path, error))) return fs::file_size(path, error);
  for (fs::recursive_directory_iterator entry(path, error), end; !error && entry != end;
       entry.increment(error)) {
    std::error_code gone;
    if (entry->is_regular_file(gone) && !entry->is_symlink(gone)) bytes += entry->file_size(gone);
  }
  return bytes;
}

template <typename Take>
Status each_entry(const fs::path& folder, Take take) {
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end;
       entry.increment(error))
    take(entry->path());
  if (error && error != std::errc::no_such_file_or_directory)
    return fail_errno(fmt::format("read {}", folder.string()), error.value());
  return {};
}

class OrphanSearch {
 public:
  OrphanSearch(const CheckpointStore& store, const std::set<CheckpointKey>& recorded)
      : store_(store), recorded_(recorded) {}

  Result<std::vector<Orphan>> run() {
    const fs::path checkpoints = store_.root() / "checkpoints";
    std::vector<std::pair<JobId, fs::path>> jobs;
    BATON_CHECK(each_entry(checkpoints, [&](const fs::path& path) {
      if (auto job = parse_number(path.filename()))
        jobs.emplace_back(JobId(*job), path);
      else if (path.filename() != ".incoming")
        add(Orphan::Kind::Foreign, path);
    }));
    for (const auto& [job, folder] : jobs)
      BATON_CHECK(each_entry(folder, [&, job = job](const fs::path& path) { look(job, path); }));
    BATON_CHECK(
        each_entry(store_.root() / "shared", [&](const fs::path& path) { look_at_shared(path); }));
    return std::move(found_);
  }

 private:
  void look(JobId job, const fs::path& path) {
    auto number = parse_number(path.filename());
    if (!number) return add(Orphan::Kind::Foreign, path);
    const CheckpointKey key(job, CheckpointNumber(*number));
    if (recorded_.contains(key) || store_.is_being_removed(key.first, key.second)) return;
    add(Orphan::Kind::Checkpoint, path, key);
  }
  void look_at_shared(const fs::path& path) {
    struct stat info {};
    if (::lstat(path.c_str(), &info) != 0) return;  // collected meanwhile
    if (!S_ISREG(info.st_mode) || !is_hash(path.filename().string()))
      add(Orphan::Kind::Foreign, path);
    else if (info.st_nlink == 1)
      add(Orphan::Kind::SharedFile, path);
  }
  void add(Orphan::Kind kind, const fs::path& path, CheckpointKey key = {}) {
    found_.push_back({kind, path.lexically_relative(store_.root()), bytes_below(path), key});
  }

  const CheckpointStore& store_;
  const std::set<CheckpointKey>& recorded_;
  std::vector<Orphan> found_;
};

const char* kind_of(std::string_view path) {
  if (path.starts_with("packs/")) return "memory pages";
  if (path.starts_with("memory/")) return "page maps";
  if (path.starts_with("base-files/")) return "files of the base";
  if (path.starts_with("tree") || path.starts_with("files/")) return "private files";
  if (path.starts_with("images/pages-")) return "memory that was not tracked";
  if (path.starts_with("images/")) return "CRIU's images";
  return "records";
}

}  // namespace

Result<std::vector<Orphan>> find_orphans(const CheckpointStore& store,
                                         const std::set<CheckpointKey>& recorded) {
  return OrphanSearch(store, recorded).run();
}

StoreStats measure(CheckpointStore& store, const std::set<CheckpointKey>& checkpoints) {
  StoreStats stats;
  std::set<std::pair<dev_t, ino_t>> seen;
  auto add = [&](const char* kind_name, const fs::path& path, std::uint64_t bytes) {
    StoredKind& kind = stats.kinds[kind_name];
    kind.logical_bytes += bytes;
    struct stat info {};
    if (::lstat(path.c_str(), &info) != 0 || !seen.emplace(info.st_dev, info.st_ino).second)
      return false;
    ++kind.files;
    kind.stored_bytes += static_cast<std::uint64_t>(info.st_size);
    return true;
  };
  for (const auto& [job, number] : checkpoints) {
    auto reader = store.open_reader(job, number);
    if (!reader && reader.error().code() == ErrorCode::NotFound) continue;
    if (!reader) {
      ++stats.unreadable;
      continue;
    }
    ++stats.checkpoints;
    if (!(*reader)->encrypted()) ++stats.unencrypted;
    for (const auto& file : (*reader)->manifest().files) {
      if (!add(kind_of(file.path), (*reader)->place(file), file.size) ||
          !file.path.starts_with("packs/"))
        continue;
      const auto source = (*reader)->open(file);
      if (!source) continue;
      const auto pages = read_pack_pages(**source);
      if (!pages) continue;
      stats.page_bytes += std::uint64_t{*pages} * kPageBytes;
      stats.page_stored_bytes += file.size;
    }
    const fs::path manifest = store.directory(job, number) /
                              ((*reader)->encrypted() ? kSealedManifestName : kManifestName);
    std::error_code gone;
    add("records", manifest, fs::file_size(manifest, gone));
  }
  return stats;
}

}  // namespace baton::store
