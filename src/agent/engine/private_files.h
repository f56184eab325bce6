// The private files of one sandbox in its checkpoints. Internal to the engine.
//
//   before_freeze   copies large files that are new or changed while the job runs
//   when_stopped    once all tasks are stopped, while CRIU dumps them: archives the trees; copies
//                   large files whose copy is not known to be right; may be left out
//   in_freeze       in CRIU's last hook: does that again unless the trees are still the same
//   save            into the checkpoint's directory
//   keep, abandon   the checkpoint succeeded, or not
//
// A file of at least large_bytes is content-addressed (store/file_content.h); its copy serves until
// the file changes. A copy is right in a freeze when, since before it was begun,
//
//   - the file's inode, size and times are the same,
//   - the watch on it (file_watch.h) has reported nothing: no write by a system call was completed,
//   and
//     in a freeze none is under way. The times alone would not do: they change when a write begins;
//   - and nobody stored through a mapping, or wrote asynchronously, which nothing reports.
//
// The last holds in one of two ways. Nobody has the file open for writing in the freeze: then
// whoever had it open at the copy has closed it since, which the watch would have reported, or was
// a mapping without a descriptor; no file that somebody has mapped is copied before the freeze, or
// trusted after one. Or nobody has it mapped in the freeze, no asynchronous write can have been
// under way at the copy, and the filesystem is one where the first store through a new mapping
// changes the times (not a tmpfs), which were old enough at the copy for any change to show.
//
// An archive made beside CRIU is that of its last hook. Once all tasks are stopped, no task writes:
// no system call is under way and nobody stores through a mapping; where somebody is set up for
// asynchronous writes, which may still be under way, the trees are archived in the hook alone. What
// is left is CRIU, which gives names to files that are open without one (link remaps), and may make
// an overlay copy such a file, or a watched folder, up. Each is a name more in a tree. So the names
// and all that an archive tells of them, times of change included, are noted before the archive is
// begun and compared in the hook. Processes that are not the same then count as a change.
//
// Used by one thread at a time.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "agent/engine/chunk_folder.h"
#include "agent/engine/known_files.h"
#include "agent/engine/record.h"
#include "agent/sandbox.h"
#include "base/result.h"

namespace baton::agent {

struct PrivateFileStats {
  std::uint64_t precopied_bytes = 0;  // read before the freeze
  std::uint64_t frozen_bytes = 0;     // read in it, of large files; twice if archived twice
  std::uint64_t unread_bytes = 0;     // of large files whose copy was right, neither copied now
  std::uint64_t new_bytes = 0;        // stored; the rest was there already
};

class PrivateFiles {
 public:
  // `chunks`: a folder for copies of files; emptied.
  explicit PrivateFiles(std::filesystem::path chunks) : chunks_directory_(std::move(chunks)) {}

  // The sandbox was at this checkpoint once: what is in it need not be stored again. Best effort.
  void build_on(const std::filesystem::path& checkpoint);
  // What can't be copied now is copied in the freeze.
  void before_freeze(const Sandbox& sandbox);
  // What the freeze will have to copy, as far as is known before it.
  std::uint64_t freeze_bytes() const { return freeze_bytes_; }
  // Told of bytes that are to be copied in the freeze beyond freeze_bytes().
  using Unforeseen = std::function<void(std::uint64_t bytes)>;
  // Best effort.
  void when_stopped(const Sandbox& sandbox, const Processes& processes,
                    const std::filesystem::path& checkpoint, const Unforeseen& unforeseen);
  // Adds to `trees`.
  Status in_freeze(const Sandbox& sandbox, const Processes& processes,
                   const std::filesystem::path& checkpoint, std::vector<TreeRecord>& trees,
                   const Unforeseen& unforeseen);
  Status save(const std::filesystem::path& checkpoint);
  void keep();
  void abandon();
  // Copies are not to be trusted any more.
  void forget();

  // Of the checkpoint that is being made.
  const PrivateFileStats& stats() const { return stats_; }

 private:
  struct Candidate;
  class Frozen;  // what is known while all tasks stand still
  struct Archived {
    Processes processes;
    std::string fingerprint;  // of the trees, before
    std::vector<TreeRecord> records;
  };

  Status ensure_chunks();
  Status try_before_freeze(const Sandbox& sandbox);
  std::vector<Candidate> find_candidates(const std::vector<PrivateTree>& trees);
  static Fd open(const Candidate& candidate);
  bool is_worth_a_copy(const KnownFile* known, const struct stat& info) const;
  Status copy_before_freeze(const Candidate& candidate, const SharedMappings& mapped,
                            const std::function<bool()>& go_on);
  Status archive(const std::vector<PrivateTree>& trees, const std::filesystem::path& checkpoint,
                 Frozen& frozen, std::vector<TreeRecord>& records);
  Result<std::optional<std::uint64_t>> keep_elsewhere(Frozen& frozen, const PrivateTree& tree,
                                                      int file, const std::string& path,
                                                      const struct stat& info);
  bool is_right(Frozen& frozen, KnownFile* known, int file, const struct stat& info) const;
  Status copy_in_freeze(Frozen& frozen, const PrivateTree& tree, int file, const std::string& path,
                        const struct stat& info, KnownFile& known);

  const std::filesystem::path chunks_directory_;
  std::unique_ptr<ChunkFolder> chunks_;
  KnownFiles known_;
  std::uint64_t checkpoint_ = 0;  // its number
  std::int64_t began_ns_ = 0;     // by the clock that files' times are of
  std::uint64_t freeze_bytes_ = 0;
  std::set<FileId> foreseen_;          // large files counted in freeze_bytes_
  std::set<std::string> needed_;       // chunks of the checkpoint that is being made
  std::set<std::string> last_needed_;  // and of the last one
  bool no_space_ = false;
  std::optional<Archived> archived_;  // by when_stopped()
  PrivateFileStats stats_;
};

}  // namespace baton::agent
