// The memory side of the checkpoints of one sandbox: tracked where that can be done, else left to
// CRIU. Internal to the engine.
//
//   before_dump   pre-copy; tells CRIU's shim to hide what is tracked
//   prepare_save  if the job will be held: what can be done of save() before; may be left out
//   when_stopped  once all tasks are stopped, while CRIU dumps them; may be left out
//   in_freeze     in CRIU's last hook
//   save          once CRIU is done, or in its last hook when the job is held
//   abandon       instead of the two above, when the dump failed
//
// Nothing in here makes a checkpoint impossible that CRIU can take: when tracking fails before the
// freeze, CRIU sees all memory. When it fails in the freeze, the dump fails and the engine repeats
// it without tracking.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "agent/engine/mapping_flags.h"
#include "agent/engine/memory_save.h"
#include "agent/engine/tracker.h"
#include "agent/sandbox.h"
#include "base/result.h"

namespace baton::agent {

// Used by one thread at a time.
class TrackedMemory {
 public:
  using Processes = std::vector<std::pair<pid_t, pid_t>>;  // as Sandbox::processes()

  explicit TrackedMemory(std::filesystem::path packs_directory)
      : packs_directory_(std::move(packs_directory)) {}

  // The sandbox was at this checkpoint once: what is in it need not be stored again.
  void build_on(const std::filesystem::path& checkpoint);
  // `images`: where CRIU will write, on the node.
  // `ask_kernel`: for the flags of mappings, in the freeze; see mapping_flags.h.
  void before_dump(const Processes& processes, const std::filesystem::path& images,
                   bool ask_kernel);
  void prepare_save(const std::filesystem::path& checkpoint);
  // Its error is told by in_freeze().
  void when_stopped(const Processes& processes);
  Status in_freeze(const Processes& processes);
  // The job runs again, or is held: whether what was known about its memory before the freeze was
  // still true in it. If not, the checkpoint is void and another can be taken at once. The one
  // member that may be called beside another, save().
  bool held_true() { return flags_.hold_true(); }
  // Into a checkpoint's directory; see memory_save.h.
  Status save(const std::filesystem::path& checkpoint, bool held);
  void abandon();
  // Gives up all tracking until the next before_dump(): CRIU sees everything.
  void release();

  // Whether the last in_freeze() failed: the dump may be repeated without tracking.
  bool failed_in_freeze() const { return failed_in_freeze_; }
  // After before_dump(): whether memory is tracked, and why not.
  bool active() const { return active_; }
  const std::string& reason() const { return reason_; }
  // "tracked", "tracked except …" or "full: why".
  std::string description() const;
  const PrecopyStats& precopy_stats() const { return precopy_; }
  std::uint64_t frozen_pages() const { return tracker_ ? tracker_->frozen_pages() : 0; }
  // Of the last save().
  const SavedMemory& saved() const { return saved_; }

 private:
  Status try_before_dump(const Processes& processes, const std::filesystem::path& images);
  void leave_to_criu(const Error& why);
  Status copy_rest(const Processes& processes);

  Status ensure_tracker();
  Status try_build_on(const std::filesystem::path& checkpoint);

  const std::filesystem::path packs_directory_;
  std::unique_ptr<Tracker> tracker_;
  std::string reason_;  // why nothing is tracked
  bool active_ = false;
  bool failed_in_freeze_ = false;
  PrecopyStats precopy_;
  std::map<pid_t, pid_t> inner_pids_;
  std::vector<FrozenMemory> frozen_;
  std::optional<Processes> stopped_;  // whose memory when_stopped() copied
  Status stopped_outcome_;
  MappingFlagsCache flags_;
  SavedMemory saved_;
  std::map<pid_t, EarlierMemory> earlier_;  // by inner pid; until the first checkpoint
};

}  // namespace baton::agent
