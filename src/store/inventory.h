// What lies in a store: how much of what, and what belongs to nobody.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "store/checkpoint_store.h"

namespace baton::store {

using CheckpointKey = std::pair<JobId, CheckpointNumber>;

// Something in the store's directory that belongs to no checkpoint.
struct Orphan {
  enum class Kind {
    Checkpoint,  // a folder under a number that is not recorded; `key` says which
    SharedFile,  // no checkpoint links to it
    Foreign,     // nothing that Baton makes: left alone by everybody
  };
  Kind kind = Kind::Foreign;
  std::string path;  // relative to the store's directory
  std::uint64_t bytes = 0;
  CheckpointKey key;
};

// Uploads and removals under way can look like orphans for a moment.
Result<std::vector<Orphan>> find_orphans(const CheckpointStore& store,
                                         const std::set<CheckpointKey>& recorded);

struct StoredKind {
  std::uint64_t files = 0;  // those that checkpoints share once
  std::uint64_t stored_bytes = 0;
  std::uint64_t logical_bytes = 0;  // as if each checkpoint had its own
};
struct StoreStats {
  std::uint64_t checkpoints = 0;
  std::uint64_t unencrypted = 0;  // of these
  std::uint64_t unreadable = 0;   // without a readable manifest; in no other figure
  std::map<std::string, StoredKind> kinds;
  std::uint64_t page_bytes = 0;  // of memory in packs, before compression
  std::uint64_t page_stored_bytes = 0;
};

// Reads the manifests of these checkpoints. Those that are removed meanwhile are left out.
StoreStats measure(CheckpointStore& store, const std::set<CheckpointKey>& checkpoints);

}  // namespace baton::store
