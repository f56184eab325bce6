// The keys of an encrypted store:
//
//   FOLDER/cluster     which key the others are wrapped with: its id, never the key
//   FOLDER/<job>       a job's key, random, wrapped with the cluster's (AES-256-GCM)
//
// docs/store-format.md has their bytes. A job's key is durable before it is handed out for the
// first time, so nothing is ever encrypted with one that a crash can take away. Thread-safe.
#pragma once

#include <array>
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
#include "store/crypto.h"
#include "store/sealed_file.h"

namespace baton::store {

// What a person gave: the cluster's key, and the one it takes the place of.
struct ClusterKeys {
  Secret current;
  std::optional<Secret> old;
};

class KeyRing {
 public:
  // Told of each step once it is durable.
  using Observer = std::function<void(std::string_view step, const std::filesystem::path& path)>;

  // Makes the folder, and wraps every job's key anew where the old key was given and is still in
  // use. Null: the store is not encrypted and no key was given. FailedPrecondition: it is encrypted
  // and none was given, or a wrong one.
  static Result<std::unique_ptr<KeyRing>> open(const std::filesystem::path& folder,
                                               const std::optional<ClusterKeys>& keys,
                                               Observer observer);

  // NotFound: the job has none, or it was forgotten. Damaged: it can't be read.
  Result<std::shared_ptr<const JobKey>> find(JobId job);
  // Makes one where there is none, or only a damaged one (which is set aside: what was encrypted
  // with it is lost unless the file is put back). NotFound: it was forgotten.
  Result<std::shared_ptr<const JobKey>> find_or_make(JobId job);
  // Returns when the job's key is gone from the disk: overwritten, unlinked, the folder synced.
  // Fine if there was none. With ForGood, nobody makes it another one either.
  enum class Forget { ForGood, SoFar };
  Status forget(JobId job, Forget how);
  // For good.
  bool is_forgotten(JobId job) const;
  // Jobs of which there is a key on disk.
  Result<std::vector<JobId>> list() const;

 private:
  using Id = std::array<unsigned char, 16>;
  KeyRing(std::filesystem::path folder, const Secret& cluster, Observer observer);
  Status take_over(const std::optional<Secret>& old);
  Status wrap_anew(const Secret& old, const Id& old_id);
  Status write_cluster(const Id& previous);
  Result<std::shared_ptr<const JobKey>> load(JobId job) const;
  Status write(const JobKey& key);
  std::filesystem::path path(JobId job) const;
  void observe(std::string_view step, const std::filesystem::path& path) const;

  const std::filesystem::path folder_;
  const Secret cluster_;
  const Id id_;
  const Observer observer_;
  mutable std::mutex mutex_;
  std::map<JobId, std::shared_ptr<const JobKey>> known_;
  std::set<JobId> forgotten_;
};

}  // namespace baton::store
