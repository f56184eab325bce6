#include "agent/engine/tracked_memory.h"

#include <fcntl.h>

#include <algorithm>

#include "agent/engine/checkpoint_layout.h"
#include "agent/sandbox_layout.h"
#include "base/fault.h"
#include "base/log.h"
#include "sys/file.h"

namespace baton::agent {
namespace {

namespace fs = std::filesystem;

// Read by criu/shim/pagemap_scan.cc.
constexpr const char* hide_switch = "hide-tracked";

std::vector<pid_t> node_pids(const TrackedMemory::Processes& processes) {
  std::vector<pid_t> pids;
  for (auto [inner, pid] : processes) pids.push_back(pid);
  return pids;
}

}  // namespace

void TrackedMemory::before_dump(const Processes& processes, const fs::path& images,
                                bool ask_kernel) {
  active_ = false;
  failed_in_freeze_ = false;
  frozen_.clear();
  stopped_.reset();
  auto outcome = try_before_dump(processes, images);
  if (outcome) {
    if (ask_kernel)
      flags_.leave_none();
    else
      flags_.before_freeze(processes, images);
    return;
  }
  leave_to_criu(outcome.error());
}

void TrackedMemory::leave_to_criu(const Error& why) {
  release();
  if (reason_ != why.message()) spdlog::info("memory is not tracked: {}", why.message());
  reason_ = why.message();
}

void TrackedMemory::prepare_save(const fs::path& checkpoint) {
  if (!active_) return;
  auto prepare = [&]() -> Status {
    BATON_CHECK(tracker_->prepare_save(checkpoint));
    // It takes some ms for each GiB, in which the program went on.
    BATON_TRY(const PrecopyStats since, tracker_->precopy());
    auto& rounds = precopy_.pages_per_round;
    rounds.insert(rounds.end(), since.pages_per_round.begin(), since.pages_per_round.end());
    return {};
  };
  auto outcome = prepare();
  if (outcome) return;
  (void)sys::remove_tree(checkpoint / layout::packs_folder);
  leave_to_criu(outcome.error());
}

Status TrackedMemory::ensure_tracker() {
  if (tracker_) return {};
  BATON_TRY(tracker_, Tracker::create({.packs_directory = packs_directory_}));
  return {};
}

void TrackedMemory::build_on(const fs::path& checkpoint) {
  auto outcome = try_build_on(checkpoint);
  if (outcome) return;
  // Nothing is lost but that the next checkpoint is stored as if it were the first.
  spdlog::info("packs of {} are not used again: {}", checkpoint.string(),
               outcome.error().message());
  release();
}

Status TrackedMemory::try_build_on(const fs::path& checkpoint) {
  BATON_TRY(auto maps, read_maps(checkpoint));
  if (maps.empty()) return {};
  BATON_CHECK(ensure_tracker());
  for (const auto& [pid, map] : maps) {
    BATON_TRY(earlier_[pid], tracker_->adopt(map, checkpoint / layout::packs_folder));
  }
  return {};
}

Status TrackedMemory::try_before_dump(const Processes& processes, const fs::path& images) {
  if (find_shim().empty()) return fail(ErrorCode::Unfit, "CRIU's shim is not installed");
  BATON_CHECK(fault("track.before_dump"));
  BATON_CHECK(ensure_tracker());
  BATON_CHECK(tracker_->refresh(node_pids(processes)));
  for (auto [inner, pid] : processes)
    if (auto earlier = earlier_.find(inner); earlier != earlier_.end())
      BATON_CHECK(tracker_->remember(pid, earlier->second));
  earlier_.clear();
  BATON_TRY(precopy_, tracker_->precopy());
  BATON_TRY([[maybe_unused]] Fd made,
            sys::open_file(images / hide_switch, O_WRONLY | O_CREAT, 0600));
  active_ = true;
  return {};
}

Status TrackedMemory::copy_rest(const Processes& processes) {
  inner_pids_.clear();
  for (auto [inner, pid] : processes) inner_pids_[pid] = inner;
  BATON_TRY(frozen_, tracker_->copy_rest(node_pids(processes)));
  return {};
}

void TrackedMemory::when_stopped(const Processes& processes) {
  if (!active_) return;
  stopped_outcome_ = copy_rest(processes);
  stopped_ = processes;
}

Status TrackedMemory::in_freeze(const Processes& processes) {
  if (!active_) return {};
  auto work = [&]() -> Status {
    BATON_CHECK(fault("track.frozen"));
    if (stopped_) BATON_CHECK(stopped_outcome_);
    if (stopped_ != processes) return copy_rest(processes);
    return tracker_->copy_code_again(frozen_);
  };
  auto outcome = work();
  failed_in_freeze_ = !outcome;
  return outcome;
}

Status TrackedMemory::save(const fs::path& checkpoint, bool held) {
  saved_ = {};
  if (!active_) return {};
  BATON_CHECK(fault("track.assemble"));
  BATON_CHECK(tracker_->settle());
  BATON_TRY(saved_, tracker_->save(std::exchange(frozen_, {}), inner_pids_, checkpoint, held));
  return {};
}

void TrackedMemory::abandon() {
  frozen_.clear();
  if (!tracker_) return;
  // The copies of the freeze are good for the next checkpoint.
  if (auto settled = tracker_->settle(); !settled) release();
}

void TrackedMemory::release() {
  active_ = false;
  frozen_.clear();
  earlier_.clear();
  if (tracker_) tracker_->release();
}

std::string TrackedMemory::description() const {
  if (!active_) return "full: " + reason_;
  std::string exceptions;
  for (const ProcessReport& process : tracker_->report()) {
    if (process.tier == MemoryTier::Tracked) continue;
    exceptions += fmt::format("{}process {} ({})", exceptions.empty() ? "" : ", ", process.pid,
                              process.reason);
  }
  return exceptions.empty() ? "tracked" : "tracked except " + exceptions;
}

}  // namespace baton::agent
