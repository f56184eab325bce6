// Tracks the memory of a job's processes, so that a checkpoint copies only what was written.
//
//   refresh          finds processes that came, went or called exec; registers new mappings
//   pre-copy round   copies what was written since the last one, while they run
//   prepare_save     if they will stand still until all is saved: what can be done before
//   ---- CRIU stops the job and dumps all but the registered mappings ----
//   copy_rest        meanwhile: copies what is left and says which pages make up the checkpoint
//   copy_code_again  when CRIU is done: what it wrote where code is mapped, to run its own
//   ---- CRIU lets the job go ----
//   settle           brings the copies into their stores, from which images are assembled
//
// A process that can't be tracked is left to CRIU, which then dumps all of it. Nothing stays in a
// process when the tracker ends, however it ends: the kernel drops registrations with our
// descriptors. See TrackedSpace for why no written page is missed.
//
// Two kinds of writes do not go through the page tables: direct I/O that is under way while a scan
// happens, and process_vm_writev by another process in the moment of a scan. Processes with
// O_DIRECT files are therefore scanned in the freeze only, where none is under way, and those that
// combine it with asynchronous I/O are not tracked. The second is a matter of microseconds and
// not guarded against; stop such programs from being tracked by EngineOptions.
//
// Thread-compatible: one thread at a time.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "agent/engine/page_set.h"
#include "agent/engine/tracked_space.h"
#include "base/result.h"
#include "sys/process.h"
#include "sys/userfaultfd.h"

namespace baton::agent {

// How a checkpoint gets the memory of a process.
enum class MemoryTier { Tracked, SoftDirty, Full };
std::string_view to_string(MemoryTier tier);

struct TrackerOptions {
  std::filesystem::path packs_directory;  // for copies of memory; emptied
  std::size_t freeze_bytes = 16u << 20;   // copied in a freeze without writing to the store
  std::uint64_t settled_pages = 64;       // pre-copy ends when a round finds no more than these …
  std::uint32_t rounds_max = 5;           // … or after so many rounds …
  double progress_min = 0.7;  // … or when a round finds more than this share of the last
};

struct ProcessReport {
  pid_t pid = 0;
  MemoryTier tier = MemoryTier::Full;
  std::string reason;  // why it is not tracked
  std::uint64_t pages_held = 0;
};

struct PrecopyStats {
  std::vector<std::uint64_t> pages_per_round;
};

// The memory of one process at the freeze, as far as CRIU did not dump it.
struct FrozenMemory {
  pid_t pid = 0;
  PageSet pages;
  std::shared_ptr<TrackedSpace> space;
};

struct SavedMemory;  // memory_save.h

struct EarlierMemory {
  store::PageMap map;
  std::vector<std::uint32_t> pack_numbers;  // in the order of map.packs
};

class Tracker {
 public:
  // Unfit: this kernel can't; the message says why.
  static Result<std::unique_ptr<Tracker>> create(const TrackerOptions& options);

  // `pids`: all processes of the job, as this node sees them. Fails only for reasons that concern
  // the tracker; what concerns a process is in its report.
  Status refresh(std::span<const pid_t> pids);
  // Rounds of copying until little is left or it stops to help. Call after refresh().
  Result<PrecopyStats> precopy();
  // After precopy(): save() to this directory will have only to add what came after.
  Status prepare_save(const std::filesystem::path& directory);
  // In the freeze. `pids`: all processes of the job now; those that came since refresh() are
  // CRIU's. After an error the checkpoint must be given up; the processes are tracked anew by
  // refresh().
  Result<std::vector<FrozenMemory>> copy_rest(std::span<const pid_t> pids);
  // After copy_rest(), in the same freeze, when CRIU wrote code of its own into the processes
  // meanwhile and put back what was there.
  Status copy_code_again(std::vector<FrozenMemory>& memory);
  // After the freeze; also after a checkpoint that failed.
  Status settle();
  // After settle(): brings the memory into a checkpoint's directory (memory_save.h) and drops
  // copies of all else. `held`: the job stands still for it.
  Result<SavedMemory> save(std::span<const FrozenMemory> memory,
                           const std::map<pid_t, pid_t>& image_pids,
                           const std::filesystem::path& directory, bool held);

  // For a process that was restored: its memory as a checkpoint had it. What is still so need not
  // be stored again. adopt() any time before, remember() between refresh() and precopy().
  Result<EarlierMemory> adopt(const store::PageMap& map, const std::filesystem::path& packs_folder);
  Status remember(pid_t pid, const EarlierMemory& earlier);

  // Pages that the last freeze had to copy.
  std::uint64_t frozen_pages() const { return frozen_pages_; }
  std::vector<ProcessReport> report() const;
  // Ends all tracking; CRIU sees all memory again.
  void release();

 private:
  struct Process {
    sys::PidFd pidfd;
    std::shared_ptr<TrackedSpace> space;  // unset: not tracked
    std::string reason;
    bool direct_io = false;  // scanned in the freeze only
  };

  Tracker(TrackerOptions options, sys::TrackingAbility ability, CopyBuffers buffers)
      : options_(std::move(options)), ability_(std::move(ability)), buffers_(std::move(buffers)) {}

  Status ensure_packs();

  Status refresh_process(pid_t pid);
  static Status register_mappings(pid_t pid, const Process& process);
  Status attach(pid_t pid, Process& process);
  Status join(pid_t pid, Process& process);
  Status close_inherited(pid_t pid);
  void lose(TrackedSpace* space, const std::string& reason);
  Result<std::uint64_t> precopy_round();
  void distrust_direct_io();

  TrackerOptions options_;
  sys::TrackingAbility ability_;
  CopyBuffers buffers_;
  FreezeCopies copies_{buffers_};
  std::unique_ptr<PagePacks> packs_;  // outlives all spaces; null after release()
  std::map<pid_t, Process> processes_;
  std::uint64_t frozen_pages_ = 0;
};

}  // namespace baton::agent
