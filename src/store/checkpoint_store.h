// Checkpoints as directories on one filesystem:
//
//   ROOT/checkpoints/<job>/<number>/      files as they were uploaded, and manifest.json
//   ROOT/checkpoints/.incoming/<n>/       uploads under way and removals; emptied by open()
//   ROOT/shared/<xxh3_128>                hard links to base-files/, packs/ and files/ of all
//   ROOT/keys/                            of an encrypted store: key_ring.h
//
// In an encrypted store every file that arrives is encrypted with its job's key, shared within the
// job, and named by a hash that the key has a part in. What lies there from before stays readable.
// Whoever reads by a Reader sees contents and names as they were uploaded.
//
// Publishing: every file fsynced, every folder fsynced, the manifest durable, the directory
// renamed to its number, its parent fsynced. A directory under its number is therefore whole; it
// counts only once its owner has also recorded it (the owner removes others, see list()).
//
// Thread-safe; an Upload or a Reader is used by one thread. The store outlives both.
#pragma once

#include <atomic>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "store/key_ring.h"
#include "store/manifest.h"

namespace baton::store {

namespace fs = std::filesystem;

struct StoreOptions {
  // Told of each step once it is durable: "sync-file", "sync-folder" (before the rename),
  // "rename", "sync-parent". Called from several threads.
  std::function<void(std::string_view step, const fs::path& path)> observer;
  // Set: what is stored is encrypted.
  std::optional<ClusterKeys> keys;
};

class Upload;
class Reader;

class CheckpointStore {
 public:
  // Makes the folders and removes what an earlier process left half done. FailedPrecondition: it
  // is encrypted and the key is missing or wrong.
  static Result<std::unique_ptr<CheckpointStore>> open(const fs::path& root,
                                                       StoreOptions options = {});

  // Those of `hashes` that have to be sent for a checkpoint of this job.
  std::vector<std::string> missing_shared_files(JobId job,
                                                const std::vector<std::string>& hashes) const;

  // With Sharing::None its files are offered to no other checkpoint: hashes are no defence against
  // someone who makes up content that has the hash of another.
  enum class Sharing { All, None };
  Result<std::unique_ptr<Upload>> begin_upload(JobId job, Sharing sharing = Sharing::All);

  // What is on disk under a number, whole or not.
  Result<std::vector<std::pair<JobId, CheckpointNumber>>> list() const;

  // Damaged, naming what is missing or wrong, if the checkpoint or its manifest is not readable.
  // While the Reader lives, remove() of this checkpoint is put off.
  Result<std::unique_ptr<Reader>> open_reader(JobId job, CheckpointNumber number);
  // Reads everything. Damaged: names the first file that is missing or wrong.
  Status verify(JobId job, CheckpointNumber number);

  // Reads everything and says all that is wrong; files by the names under which they lie.
  struct CheckpointCheck {
    std::uint64_t files = 0;
    std::uint64_t bytes = 0;
    std::vector<std::string> damage;  // "packs/…: its checksum is wrong", one for each file
  };
  struct CheckOptions {
    // True for what need not be read, because it has just been found whole. `link`: where it lies.
    std::function<bool(const StoredFile& file, const fs::path& link)> skip;
    // Told of the bytes that were read; an error ends it.
    std::function<Status(std::uint64_t bytes)> pace;
  };
  // NotFound: it is being removed. Else only an error of `pace`.
  Result<CheckpointCheck> check(JobId job, CheckpointNumber number, const CheckOptions& options);

  // The names of all shared files.
  Result<std::vector<std::string>> list_shared_files() const;
  // Reads a shared file. One that is not what its name says is not shared any more, so that the
  // next checkpoint that needs it brings it anew.
  struct SharedFileCheck {
    std::uint64_t bytes = 0;
    std::string damage;                                       // empty: it is whole, or gone
    std::vector<std::pair<JobId, CheckpointNumber>> holders;  // of a damaged one, ascending
  };
  Result<SharedFileCheck> check_shared_file(const std::string& name);

  // Gone at once, or when the last Reader of it ends. Fine if absent.
  Status remove(JobId job, CheckpointNumber number);
  // When it returns nothing of the job that is encrypted can be read any more, by anybody who does
  // not read it already. The job's id is not used again.
  Status forget_key(JobId job);
  // All of them, after forget_key().
  Status remove_job(JobId job);
  // The same of a job that is not recorded; its id may come to be another's.
  Status remove_leftovers(JobId job);
  // Jobs that have a key on disk.
  Result<std::vector<JobId>> jobs_with_keys() const;
  bool encrypted() const { return keys_ != nullptr; }

  fs::path directory(JobId job, CheckpointNumber number) const;
  fs::path shared_file(std::string_view name) const;
  const fs::path& root() const { return root_; }
  std::uint64_t free_bytes() const;
  // What removals have given back to the disk since the store was opened.
  std::uint64_t freed_bytes() const { return freed_bytes_; }
  // Removed, but for a Reader that still has it.
  bool is_being_removed(JobId job, CheckpointNumber number) const;
  // Removes those of these shared files to which no checkpoint links.
  Status collect_shared_files(const std::vector<std::string>& names);

 private:
  // Shared files of an upload that was broken off, for the job's next checkpoint.
  void note_unused(JobId job, std::vector<std::string> names);
  Status collect_unused(JobId job);

  friend class Upload;
  friend class Reader;
  using Key = std::pair<JobId, CheckpointNumber>;

  CheckpointStore(fs::path root, StoreOptions options);
  fs::path job_directory(JobId job) const;
  fs::path incoming_directory();
  void observe(std::string_view step, const fs::path& path) const;
  Status remove_now(const Key& key);
  Status remove_all(JobId job);
  Result<bool> is_sealed_and_whole(const std::string& name) const;
  Result<std::vector<Key>> holders(const fs::path& shared) const;
  void unpin(const Key& key);

  const fs::path root_;
  const StoreOptions options_;
  std::unique_ptr<KeyRing> keys_;  // null: nothing is encrypted
  mutable std::mutex mutex_;
  std::map<Key, int> pins_;
  std::set<Key> removals_put_off_;
  std::map<JobId, std::vector<std::string>> unused_;
  std::uint64_t next_incoming_ = 1;
  std::atomic<std::uint64_t> freed_bytes_ = 0;
};

}  // namespace baton::store
