// The memory of a sandbox whose pages can't be tracked, where the kernel marks pages that were
// written (soft-dirty): CRIU dumps those alone, and names others as being in the last dump, the
// parent. Internal to the engine.
//
//   before_dump   gives CRIU a parent to build on
//   save          once CRIU is done, or in its last hook when the job is held: what it dumped goes
//                 into packs, and a map says for every page of a process where it lies
//                 (memory_save.h). So the checkpoint needs no parent, and is stored, shipped and
//                 restored as one of tracked memory is
//   abandon       instead of it, when the dump failed
//
// What makes it correct. CRIU takes the marks off a process in a dump, when it has dumped its pages
// and while it stands still. So a page without a mark is as it was in the last dump that took marks
// off. That one has to be the parent: a dump that failed, at whatever step, may have taken marks
// off pages that were written and that nobody kept. So a parent serves one dump, and only a dump
// that became a checkpoint makes another; the next one after a failure, and the first one in the
// life of this object (of a sandbox that was restored or is adopted), dumps everything.
//
// A process that is new (or another under the same pid, which CRIU tells by its start) is dumped in
// full, and so is what exec or mmap made: it is marked. Not guarded against: a program that takes
// marks off itself and opens clear_refs for just a moment to do so. Where it is seen open (Boehm's
// collector keeps it so), everything is dumped.
//
// Proven on fabricated images, and with CRIU on a kernel that has no soft-dirty, whose marks were
// simulated (tests/unit/agent_soft_dirty_*).
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "agent/engine/memory_save.h"
#include "base/result.h"
#include "criu/image_codec.h"
#include "criu/session.h"

namespace baton::agent {

// Used by one thread at a time.
class SoftDirtyMemory {
 public:
  using Processes = std::vector<std::pair<pid_t, pid_t>>;  // as Sandbox::processes()

  explicit SoftDirtyMemory(std::filesystem::path packs_directory)
      : packs_directory_(std::move(packs_directory)) {}

  // `images`: where CRIU will write, on the node; `options` get what its dump is to be told.
  // `untracked`: why this tier is asked.
  Status before_dump(const Processes& processes, const std::filesystem::path& images,
                     const std::string& untracked, criu::SessionOptions& options);
  // `checkpoint`: its directory, with CRIU's images in their place. They lose their pages. `held`:
  // the job stands still. Internal: they do not fit together.
  Status save(const std::filesystem::path& checkpoint, bool held);
  void abandon() { inventory_.clear(); }
  // Others take this checkpoint: no parent, no copies.
  void forget();

  // After a dump that failed: whether it may go well without what this object had asked for. Then
  // the next one is without a parent, or, if it was so already, without soft-dirty. What fails
  // after save() went well, as when a held job was to go on, has other reasons.
  bool another_try(const Error& error);
  // "soft-dirty: why not tracked" or "full: why".
  const std::string& description() const { return description_; }
  // Of the last save().
  const SavedMemory& saved() const { return saved_; }
  std::uint64_t dumped_pages() const { return dumped_pages_; }

 private:
  struct Process {
    PageStore store;
    PageSet pages;  // of the newest checkpoint
  };

  Status write_parent(const std::filesystem::path& folder, const std::string& inventory) const;
  Status take_images(const std::filesystem::path& images);
  Status take_process(const std::filesystem::path& images, pid_t pid);
  Status read_pages(const criu::PagemapImage& image, const std::filesystem::path& path,
                    PageStore& store);
  void drop_copies();

  const std::filesystem::path packs_directory_;
  std::unique_ptr<PagePacks> packs_;    // outlives all stores
  std::map<pid_t, Process> processes_;  // by image pid
  std::string inventory_;  // CRIU's inventory.img of the parent; empty: there is no parent
  std::string declined_;   // why the next dump is to go without soft-dirty
  std::string description_;
  bool active_ = false;      // before_dump() asked for something, and nothing has come of it yet
  bool has_parent_ = false;  // and for a parent
  std::uint64_t dumped_pages_ = 0;
  SavedMemory saved_;
};

}  // namespace baton::agent
