// What a job has open or mapped from its base (not from its private layers, not from volumes):
// recorded with a content hash at a checkpoint, compared and supplied at a restore.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "agent/engine/record.h"
#include "base/result.h"
#include "criu/images.h"

namespace baton::agent {

// Which overlay covers a path, and where its base is. Made from a sandbox's spec and trees.
class BaseView {
 public:
  // `base`: "/" or the job's root. `tree_folders`: (name, folder of the upper layer); other trees
  // than overlays are ignored.
  BaseView(std::filesystem::path base,
           const std::vector<std::pair<std::string, std::filesystem::path>>& tree_folders);

  struct Place {
    std::string tree;
    std::filesystem::path upper;  // where the path is in the private layer
    std::filesystem::path lower;  // and in the base
  };
  Place locate(const std::string& path) const;

 private:
  struct Overlay {
    std::string path;  // "" for the root, else "/home"
    std::string tree;
    std::filesystem::path folder;
  };
  std::filesystem::path base_;
  std::vector<Overlay> overlays_;  // inner before outer
};

// Hashes and copies that last from one checkpoint to the next. Thread-safe.
class BaseFileCache {
 public:
  explicit BaseFileCache(std::filesystem::path directory) : directory_(std::move(directory)) {}

  // The content's hash; read again only when the file's device, inode, size or times changed.
  Result<std::string> hash(const std::filesystem::path& file);
  // Puts the content of `file` (which has this hash) at `target`: a hard link to a copy of ours,
  // or a copy where that is not possible.
  Status provide(const std::filesystem::path& file, const std::string& hash,
                 const std::filesystem::path& target);

  // The last record of a file of the base, for when the base has changed under a running job (an
  // upgrade, a deleted program): the job goes on with the content it opened.
  void remember(const std::filesystem::path& file, const BaseFileRecord& record);
  std::optional<BaseFileRecord> recall(const std::filesystem::path& file,
                                       std::uint64_t size_bytes) const;

 private:
  Status ensure_copy(const std::filesystem::path& file, const std::filesystem::path& copy,
                     const std::string& hash);

  std::filesystem::path directory_;
  mutable std::mutex mutex_;
  std::map<std::string, std::string> hashes_;  // identity of a file -> hash
  std::map<std::pair<std::string, std::uint64_t>, BaseFileRecord> records_;  // by path and size
};

// The records for those of `files` that come from the base. `on_overlay` says whether a path (in
// the sandbox) lies on one of the sandbox's overlays. Unavailable: one was replaced since the dump.
Result<std::vector<BaseFileRecord>> record_base_files(
    const std::vector<criu::ImageFile>& files, const BaseView& view,
    const std::function<bool(const std::string&)>& on_overlay, BaseFileCache& cache);

// Adds to the private layers what the base lacks or has otherwise. `contents`: the checkpoint's
// base-files folder. Damaged: content that is needed is not there or is wrong. Returns the paths.
Result<std::vector<std::string>> supply_base_files(const std::vector<BaseFileRecord>& records,
                                                   const BaseView& view,
                                                   const std::filesystem::path& contents,
                                                   BaseFileCache& cache);

// Copies a whole file, sharing blocks where the filesystem can.
Status copy_content(const std::filesystem::path& from, const std::filesystem::path& to);
// A hard link, or a copy where that can't be; fine if `to` exists.
Status link_or_copy(const std::filesystem::path& from, const std::filesystem::path& to);

}  // namespace baton::agent
