// Makes CRIU's images of a process's memory from what CRIU dumped and what the tracker copied, so
// that stock `criu restore` finds a complete dump.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <map>
#include <set>
#include <stop_token>
#include <string>

#include "agent/engine/lazy_memory.h"
#include "agent/engine/open_packs.h"
#include "base/result.h"

namespace baton::agent {

struct Assembled {
  std::set<std::string> files;
  std::map<pid_t, LazyPages> lazy;  // what was left out, by the pid in the images
};

// As read_maps() gives them.
using PageMaps = std::map<pid_t, store::PageMap>;

// Writes the images of memory of all processes that have a map into `images`. There, the others of
// `checkpoint` are to be added by the caller: the result names the files that are made. `packs`:
// the checkpoint's. `lazy`: pages that CRIU can restore lazily are only named in them. Damaged: the
// checkpoint isn't whole; the message names the file. Cancelled: given up.
Result<Assembled> assemble_memory(const std::filesystem::path& checkpoint, PageMaps maps,
                                  OpenPacks& packs, const std::filesystem::path& images, bool lazy,
                                  const std::stop_token& given_up = {});
// Tracked memory in a checkpoint, zeroes aside. What processes share since a fork counts for each
// of them in the first figure, and once in the second.
struct TrackedBytes {
  std::uint64_t all = 0;
  std::uint64_t distinct = 0;
};
TrackedBytes tracked_bytes(const PageMaps& maps);

}  // namespace baton::agent
