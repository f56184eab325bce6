// Brings the copied memory of a checkpoint into its directory:
//
//   memory/<pid>.map   which pages the process has and where they lie (store/page_map.h)
//   packs/<hash>       hard links to the packs that the maps name
//
// Only pages that changed since the last checkpoint are in a pack that no earlier checkpoint has.
//
// When the program will stand still for it, prepare_memory() does before the freeze all of it that
// can be done then, and save_memory() what is left.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <span>

#include "agent/engine/page_packs.h"
#include "agent/engine/page_set.h"
#include "agent/engine/page_store.h"
#include "base/result.h"

namespace baton::agent {

// The memory of one process. Processes that share it share the store.
struct MemoryToSave {
  pid_t image_pid = 0;  // as CRIU's images name the process
  const PageSet* pages = nullptr;
  PageStore* store = nullptr;
};

struct SavedMemory {
  std::uint64_t pages = 0;      // of all processes together
  std::uint64_t new_bytes = 0;  // of packs that were made for this checkpoint
};

// `memory`: of all processes whose copies shall be kept; everything else in `packs` is dropped.
// `held`: nothing is done for later checkpoints, which takes time: packs stay that are dead, and
// those that are mostly so are not rewritten. Not synced. After an error the packs are void.
Result<SavedMemory> save_memory(PagePacks& packs, std::span<const MemoryToSave> memory,
                                const std::filesystem::path& directory, bool held);
// `stores`: those that will be saved, as far as it is known.
Status prepare_memory(PagePacks& packs, std::span<PageStore* const> stores,
                      const std::filesystem::path& directory);

}  // namespace baton::agent
