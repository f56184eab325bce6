#include "agent/engine/tracker.h"

#include <fcntl.h>
#include <linux/kcmp.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <set>

#include "agent/engine/memory_save.h"
#include "sys/file.h"
#include "sys/proc_maps.h"
#include "sys/remote_call.h"

namespace baton::agent {
namespace {

namespace fs = std::filesystem;

bool shares_memory(pid_t a, pid_t b) { return ::syscall(SYS_kcmp, a, b, KCMP_VM, 0, 0) == 0; }

bool same_file(pid_t a, int fd_a, int fd_of_ours) {
  return ::syscall(SYS_kcmp, a, ::getpid(), KCMP_FILE, fd_a, fd_of_ours) == 0;
}

std::vector<int> open_descriptors(pid_t pid) {
  std::vector<int> numbers;
  std::error_code error;
  for (fs::directory_iterator at(fmt::format("/proc/{}/fd", pid), error), end; !error && at != end;
       at.increment(error))
    numbers.push_back(std::atoi(at->path().filename().c_str()));
  return numbers;
}

// Whether the process has a file open for direct I/O, by which devices write into its memory past
// the page tables.
bool has_direct_io(pid_t pid) {
  for (int number : open_descriptors(pid)) {
    auto info = sys::read_file(fmt::format("/proc/{}/fdinfo/{}", pid, number));
    if (!info) continue;  // closed meanwhile
    std::size_t at = info->find("flags:");
    if (at == std::string::npos) continue;
    if (std::strtoul(info->c_str() + at + 6, nullptr, 8) & O_DIRECT) return true;
  }
  return false;
}

bool has_async_io(std::span<const sys::Mapping> mappings) {
  return std::ranges::any_of(
      mappings, [](const sys::Mapping& mapping) { return mapping.name.starts_with("/[aio]"); });
}

}  // namespace

std::string_view to_string(MemoryTier tier) {
  switch (tier) {
    case MemoryTier::Tracked: return "tracked";
    case MemoryTier::SoftDirty: return "soft-dirty";
    case MemoryTier::Full: return "full";
  }
  return "unknown";
}

Result<std::unique_ptr<Tracker>> Tracker::create(const TrackerOptions& options) {
  sys::TrackingAbility ability = sys::probe_tracking();
  if (!ability.available) return fail(ErrorCode::Unfit, ability.reason);
  BATON_TRY(CopyBuffers buffers, CopyBuffers::create(options.freeze_bytes));
  std::unique_ptr<Tracker> tracker(new Tracker(options, std::move(ability), std::move(buffers)));
  BATON_CHECK(tracker->ensure_packs());
  return tracker;
}

Status Tracker::ensure_packs() {
  if (packs_) return {};
  BATON_TRY(packs_, PagePacks::create(options_.packs_directory));
  return {};
}

Status Tracker::refresh(std::span<const pid_t> pids) {
  BATON_CHECK(settle());
  BATON_CHECK(ensure_packs());
  std::set<pid_t> present(pids.begin(), pids.end());
  std::erase_if(processes_, [&](const auto& entry) {
    return !present.contains(entry.first) ||
           entry.second.pidfd.wait_ended(std::chrono::milliseconds(0));
  });
  for (pid_t pid : present) {
    auto outcome = refresh_process(pid);
    if (outcome) continue;
    if (outcome.error().code() == ErrorCode::NotFound) {
      processes_.erase(pid);
    } else if (outcome.error().code() == ErrorCode::NoSpace) {
      return outcome;
    } else {
      Process& process = processes_[pid];
      process.space.reset();
      process.reason = outcome.error().message();
    }
  }
  return {};
}

Status Tracker::refresh_process(pid_t pid) {
  BATON_TRY(auto mappings, sys::read_mappings(pid));
  if (mappings.empty()) return fail(ErrorCode::NotFound, "it has ended");
  auto [at, is_new] = processes_.try_emplace(pid);
  Process& process = at->second;
  if (is_new) {
    BATON_TRY(process.pidfd, sys::PidFd::open(pid));
    BATON_CHECK(close_inherited(pid));
  }
  process.direct_io = has_direct_io(pid);
  if (process.direct_io && has_async_io(mappings))
    return fail(ErrorCode::Unfit, "it uses asynchronous direct I/O");
  BATON_TRY(bool tracked, TrackedSpace::is_tracked(pid));
  if (process.space && !tracked) process.space.reset();  // it called exec
  if (process.space) {
    auto registered = register_mappings(pid, process);
    if (registered) return {};
    process.space.reset();
    if (registered.error().code() != ErrorCode::FailedPrecondition) return registered;
    tracked = false;
  }
  return tracked ? join(pid, process) : attach(pid, process);
}

Status Tracker::register_mappings(pid_t pid, const Process& process) {
  auto registered = process.space->register_mappings(pid);
  if (!registered && registered.error().code() == ErrorCode::Unavailable) return {};
  return registered;
}

Status Tracker::attach(pid_t pid, Process& process) {
  BATON_TRY(auto space, TrackedSpace::attach(pid, *packs_, ability_));
  process.space = std::move(space);
  process.reason.clear();
  return {};
}

// The process shares its memory with another one (vfork, CLONE_VM).
Status Tracker::join(pid_t pid, Process& process) {
  for (auto& [other_pid, other] : processes_) {
    if (other_pid == pid || !other.space || !shares_memory(pid, other_pid)) continue;
    process.space = other.space;
    process.reason.clear();
    return register_mappings(pid, process);
  }
  return fail(ErrorCode::Unfit, "it tracks its memory itself (userfaultfd)");
}

// A process that another thread forked in the moment in which its parent held our userfaultfd has
// a copy of the descriptor, which CRIU would refuse.
Status Tracker::close_inherited(pid_t pid) {
  for (int number : open_descriptors(pid)) {
    std::error_code error;
    auto target = fs::read_symlink(fmt::format("/proc/{}/fd/{}", pid, number), error);
    if (error || target != "anon_inode:[userfaultfd]") continue;
    for (auto& [other_pid, other] : processes_)
      if (other.space && same_file(pid, number, other.space->userfaultfd().get())) {
        BATON_CHECK(sys::close_descriptor_in(pid, number));
        break;
      }
  }
  return {};
}

void Tracker::lose(TrackedSpace* space, const std::string& reason) {
  for (auto& [pid, process] : processes_) {
    if (process.space.get() != space) continue;
    process.space.reset();
    process.reason = reason;
  }
}

Result<std::uint64_t> Tracker::precopy_round() {
  std::uint64_t pages = 0;
  std::set<TrackedSpace*> done;
  std::vector<std::pair<std::shared_ptr<TrackedSpace>, std::string>> lost;
  for (auto& [pid, process] : processes_) {
    auto space = process.space;
    if (!space || process.direct_io || done.contains(space.get())) continue;
    auto copied = space->copy_written(pid, buffers_);
    if (copied) {
      pages += *copied;
      done.insert(space.get());
      continue;
    }
    if (packs_->broken()) return copied;
    switch (copied.error().code()) {
      case ErrorCode::NotFound:
      case ErrorCode::FailedPrecondition:
        process.space.reset();
        process.reason = copied.error().message();
        break;
      default: done.insert(space.get()); lost.emplace_back(space, copied.error().message());
    }
  }
  for (auto& [space, reason] : lost) lose(space.get(), reason);
  return pages;
}

// Direct I/O that began after refresh() looked may have been under way during a scan.
void Tracker::distrust_direct_io() {
  for (auto& [pid, process] : processes_) {
    if (!process.space || process.direct_io || !has_direct_io(pid)) continue;
    process.direct_io = true;
    process.space->distrust();
  }
}

Result<PrecopyStats> Tracker::precopy() {
  PrecopyStats stats;
  while (stats.pages_per_round.size() < options_.rounds_max) {
    auto pages = precopy_round();
    if (!pages) {
      release();
      return fail(std::move(pages).error());
    }
    stats.pages_per_round.push_back(*pages);
    if (*pages <= options_.settled_pages) break;
    std::size_t count = stats.pages_per_round.size();
    if (count > 1 &&
        static_cast<double>(*pages) >
            options_.progress_min * static_cast<double>(stats.pages_per_round[count - 2]))
      break;
  }
  distrust_direct_io();
  return stats;
}

Result<std::vector<FrozenMemory>> Tracker::copy_rest(std::span<const pid_t> pids) {
  std::vector<FrozenMemory> memory;
  std::map<TrackedSpace*, std::size_t> done;
  packs_->set_compression(false);
  std::uint64_t before = copies_.pages();
  for (pid_t pid : pids) {
    auto tracked = TrackedSpace::is_tracked(pid);
    if (!tracked && tracked.error().code() != ErrorCode::NotFound) {
      release();
      return fail(std::move(tracked).error());
    }
    // CRIU saw all memory of a process that is not tracked, or not any more since an exec.
    if (!tracked || !*tracked) continue;
    auto at = processes_.find(pid);
    if (at == processes_.end() || !at->second.space)
      return fail(ErrorCode::Unavailable,
                  fmt::format("process {} came to share memory just before the freeze", pid));
    auto& space = at->second.space;
    if (auto known = done.find(space.get()); known != done.end()) {
      memory.push_back({pid, memory[known->second].pages, space});
      continue;
    }
    auto pages = space->copy_rest(pid, copies_, buffers_);
    if (!pages) {
      release();
      return fail(std::move(pages).error().context(fmt::format("copy memory of process {}", pid)));
    }
    done.emplace(space.get(), memory.size());
    memory.push_back({pid, std::move(*pages), space});
  }
  frozen_pages_ = copies_.pages() - before;
  return memory;
}

Status Tracker::copy_code_again(std::vector<FrozenMemory>& memory) {
  std::map<TrackedSpace*, const PageSet*> done;
  std::uint64_t before = copies_.pages();
  for (FrozenMemory& process : memory) {
    auto [known, is_new] = done.emplace(process.space.get(), &process.pages);
    if (!is_new) {
      process.pages = *known->second;
      continue;
    }
    auto copied = process.space->copy_code_again(process.pid, process.pages, copies_, buffers_);
    if (copied) continue;
    release();
    return fail(
        std::move(copied).error().context(fmt::format("copy code of process {}", process.pid)));
  }
  frozen_pages_ += copies_.pages() - before;
  return {};
}

Status Tracker::settle() {
  if (packs_) packs_->set_compression(true);
  auto settled = copies_.settle();
  if (!settled) release();
  return settled;
}

Status Tracker::prepare_save(const fs::path& directory) {
  std::set<PageStore*> stores;
  for (auto& [pid, process] : processes_)
    if (process.space) stores.insert(&process.space->store());
  const std::vector<PageStore*> all(stores.begin(), stores.end());
  auto prepared = prepare_memory(*packs_, all, directory);
  if (!prepared) release();
  return prepared;
}

Result<SavedMemory> Tracker::save(std::span<const FrozenMemory> memory,
                                  const std::map<pid_t, pid_t>& image_pids,
                                  const fs::path& directory, bool held) {
  // Others have nothing that a later checkpoint could build on.
  for (auto& [pid, process] : processes_) {
    bool is_saved = std::ranges::any_of(
        memory, [&](const FrozenMemory& saved) { return saved.space == process.space; });
    if (process.space && !is_saved) process.space->store().keep_only({});
  }
  std::vector<MemoryToSave> wanted;
  for (const FrozenMemory& process : memory)
    wanted.push_back({image_pids.at(process.pid), &process.pages, &process.space->store()});
  auto saved = save_memory(*packs_, wanted, directory, held);
  if (!saved) release();
  return saved;
}

std::vector<ProcessReport> Tracker::report() const {
  std::vector<ProcessReport> reports;
  for (const auto& [pid, process] : processes_)
    reports.push_back({pid, process.space ? MemoryTier::Tracked : MemoryTier::Full, process.reason,
                       process.space ? process.space->store().pages_held() : 0});
  return reports;
}

Result<EarlierMemory> Tracker::adopt(const store::PageMap& map, const fs::path& packs_folder) {
  BATON_CHECK(ensure_packs());
  EarlierMemory earlier{map, {}};
  for (const store::MapPack& pack : map.packs) {
    BATON_TRY(auto number, packs_->adopt(packs_folder / pack.hash, pack.hash, pack.pages));
    earlier.pack_numbers.push_back(number);
  }
  return earlier;
}

Status Tracker::remember(pid_t pid, const EarlierMemory& earlier) {
  auto at = processes_.find(pid);
  if (at == processes_.end() || !at->second.space) return {};
  return at->second.space->store().remember(earlier.map, earlier.pack_numbers);
}

void Tracker::release() {
  copies_ = FreezeCopies(buffers_);
  processes_.clear();
  packs_.reset();
}

}  // namespace baton::agent
