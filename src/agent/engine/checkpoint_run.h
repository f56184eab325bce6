// One checkpoint, from the first look at the job to the finished directory. Internal to the engine.
#pragma once

#include <atomic>
#include <chrono>
#include <filesystem>
#include <functional>
#include <future>
#include <memory>
#include <optional>
#include <string>

#include "agent/engine/base_files.h"
#include "agent/engine/engine.h"
#include "agent/engine/freeze_gate.h"
#include "agent/engine/freeze_watch.h"
#include "agent/engine/private_files.h"
#include "agent/engine/record.h"
#include "agent/engine/roll_call.h"
#include "agent/engine/soft_dirty_memory.h"
#include "agent/engine/tracked_memory.h"
#include "agent/engine/unread_events.h"
#include "agent/engine/when_stopped.h"
#include "criu/session.h"
#include "sys/priority.h"

namespace baton::agent {

class CheckpointRun {
 public:
  // What a freeze need not wait for when it can be known before, and checked later.
  enum class Foreknowledge { Use, None };

  CheckpointRun(Sandbox& sandbox, std::filesystem::path directory, const EngineOptions& options,
                BaseFileCache& cache, FreezeGate& gate, PrivateFiles& files, UnreadEvents& events,
                TrackedMemory* memory = nullptr, SoftDirtyMemory* soft_dirty = nullptr,
                Foreknowledge foreknowledge = Foreknowledge::Use)
      : sandbox_(sandbox),
        directory_(std::move(directory)),
        options_(options),
        cache_(cache),
        gate_(gate),
        files_(files),
        events_(events),
        memory_(memory),
        soft_dirty_(soft_dirty),
        foreknowledge_(foreknowledge) {}

  using Hold = std::function<HoldVerdict(const HeldCheckpoint&)>;
  // `hold` may be empty. On error the directory is gone.
  Result<CheckpointInfo> run(const Hold& hold);
  // run() failed because something that was known before was not so any more. The job is well;
  // without foreknowledge it would have gone well.
  bool mistaken() const { return mistaken_; }
  // run() failed because the job had to be let go to read its events. The next may well succeed.
  bool events_unread() const { return events_unread_; }

 private:
  Status prepare_directories();
  std::chrono::milliseconds freeze_limit(const Processes& processes) const;
  std::chrono::milliseconds time_for(std::uint64_t bytes) const;
  PrivateFiles::Unforeseen unforeseen() const;
  Status dump(const Hold& hold);
  bool let_go(criu::Session& session, pid_t worker);
  Status choose_tier(const Processes& processes, criu::SessionOptions& options);
  Status save_memory(bool held);
  Status while_frozen(const Hold& hold);
  static bool has_nothing_of_ipc(const Processes& processes);
  void note_while_stopped();
  void note_attributes(const Processes& processes);
  Status capture();  // what has to be taken at the instant of the dump
  Status archive_trees(const Processes& processes);
  Status complete(bool held);  // what can wait until the job runs again
  Status confirm();            // that what was known before was so; any time after complete()
  Status move_images();
  Result<std::vector<BaseFileRecord>> find_base_files(const criu::ImageSummary& summary);
  Status store_base_files();
  // The time since the last call, which begins the next step.
  std::int64_t lap_us();
  Error explain_failure(const Error& error, const criu::Session& session);

  Sandbox& sandbox_;
  const std::filesystem::path directory_;
  const EngineOptions& options_;
  BaseFileCache& cache_;
  FreezeGate& gate_;
  PrivateFiles& files_;
  UnreadEvents& events_;
  TrackedMemory* const memory_;        // null: CRIU dumps all memory
  SoftDirtyMemory* const soft_dirty_;  // for memory that is not tracked; null: CRIU dumps all of it
  const Foreknowledge foreknowledge_;

  CheckpointRecord record_;
  RollCall roll_;
  FreezeWatch* watch_ = nullptr;  // while the dump goes on
  std::int64_t started_ns_ = 0;
  std::int64_t freeze_started_ns_ = 0;
  std::int64_t lap_ns_ = 0;
  std::atomic<bool> released_{false};  // CRIU needs nothing more of the tasks
  Status noted_;
  std::unique_ptr<WhenStopped> when_stopped_;
  std::future<bool> known_rightly_;
  std::optional<FreezeGate::Turn> turn_;
  std::optional<sys::HastyWork> hasty_work_;
  bool hasty_ = false;        // nobody waits for a processor
  bool without_ipc_ = false;  // CRIU was told of no System V objects
  bool still_without_ipc_ = false;
  bool mistaken_ = false;
  bool await_reader_ = false;
  bool events_unread_ = false;
  bool completed_ = false;
  bool killed_ = false;
};

}  // namespace baton::agent
