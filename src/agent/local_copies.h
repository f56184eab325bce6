// The newest checkpoint of each job that lives here, kept on this node after it has been shipped
// (level 1), so that a restore here needs no download and a preflight has something to try; and
// those that the controller wants ready here because their job may come (staged).
//
//   ROOT/<job>.<number>.<unique>/checkpoint/   the checkpoint's directory
//   ROOT/<job>.<number>.<unique>/copy.json     a manifest (store/manifest.h) of it
//   ROOT/<job>.<number>.<unique>/staged        it is a staged one
//
// Thread-safe.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "store/manifest.h"
#include "wire/baton.pb.h"

namespace baton::agent {

namespace pb = baton::v1;

// Which files were found whole, so that those that are shared by one copy and the next need not be
// read again. A file counts as the same while its inode, size and modification time are.
// Thread-safe.
class WholeFiles {
 public:
  void add(const std::filesystem::path& file, const std::string& hash);
  bool contains(const std::filesystem::path& file, const std::string& hash) const;

 private:
  static std::optional<std::string> key(const std::filesystem::path& file, const std::string& hash);
  mutable std::mutex mutex_;
  std::set<std::string> known_;
};

// Stays on disk while someone holds it; removed when it was superseded and is let go.
class LocalCopy {
 public:
  LocalCopy(std::filesystem::path folder, pb::Checkpoint info, std::vector<store::StoredFile> files,
            std::shared_ptr<WholeFiles> whole);
  ~LocalCopy();
  LocalCopy(const LocalCopy&) = delete;
  LocalCopy& operator=(const LocalCopy&) = delete;

  std::filesystem::path directory() const { return folder_ / "checkpoint"; }
  const pb::Checkpoint& info() const { return info_; }
  // The hashes of those of its shared files that are here and whole; reads those that were not
  // found whole before.
  std::set<std::string> whole_shared_files() const;
  // Reads everything but the shared files in `whole`. Damaged: names the first file that is missing
  // or differs.
  Status verify(const std::set<std::string>& whole = {}) const;
  void discard() { discarded_ = true; }
  bool staged() const;
  void unstage();

 private:
  const std::filesystem::path folder_;
  const pb::Checkpoint info_;
  const std::vector<store::StoredFile> files_;
  const std::shared_ptr<WholeFiles> whole_;
  std::atomic<bool> discarded_ = false;
};

class LocalCopies {
 public:
  // Takes over what an earlier agent left and removes what is not whole.
  static Result<std::unique_ptr<LocalCopies>> open(const std::filesystem::path& root);

  // Moves `directory` in, whose files were just found whole; it becomes the job's copy and an older
  // one is let go. On error `directory` is where it was.
  Result<std::shared_ptr<LocalCopy>> keep(const pb::Checkpoint& info,
                                          const std::filesystem::path& directory,
                                          std::vector<store::StoredFile> files,
                                          bool staged = false);
  std::shared_ptr<LocalCopy> find(JobId job) const;
  void drop(JobId job);
  // Lets go of all but these jobs' copies and the staged ones.
  void keep_only(const std::set<JobId>& jobs);

  std::vector<std::shared_ptr<LocalCopy>> staged() const;
  // The job's copy is not a staged one any more, but like one that was taken here.
  void unstage(JobId job);

 private:
  explicit LocalCopies(std::filesystem::path root) : root_(std::move(root)) {}

  const std::filesystem::path root_;
  const std::shared_ptr<WholeFiles> whole_ = std::make_shared<WholeFiles>();
  mutable std::mutex mutex_;
  std::map<JobId, std::shared_ptr<LocalCopy>> copies_;
};

// Whether two descriptions are of the same checkpoint: a number alone may come from another
// controller's life.
bool same_checkpoint(const pb::Checkpoint& a, const pb::Checkpoint& b);

}  // namespace baton::agent
