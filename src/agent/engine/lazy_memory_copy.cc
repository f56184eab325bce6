// Brings the pages of a restored job into their places that nobody waits for.
#include <poll.h>
#include <pthread.h>

#include <algorithm>

#include "agent/engine/lazy_memory.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "store/pack.h"

namespace baton::agent {
namespace {

using sys::page_bytes;
using Outcome = sys::PageFaults::Outcome;

constexpr std::uint32_t kHotPages = 512;

// Leaves the processors to others for as long as this thread had to wait for one. A low priority
// would not do: it holds locks that faults wait for, and counts in its control group only, whereas
// the program is in another one.
class Courtesy {
 public:
  void after_step() {
    const std::int64_t now_ns = boot_time_ns(), used_ns = used();
    const std::int64_t worked_ns = used_ns - std::exchange(used_ns_, used_ns);
    const std::int64_t waited_ns = now_ns - std::exchange(since_ns_, now_ns) - worked_ns;
    if (waited_ns < worked_ns / 2) return;
    constexpr std::int64_t kLongestNs = 2'000'000;
    const timespec pause{0, std::min({waited_ns, worked_ns, kLongestNs})};
    ::nanosleep(&pause, nullptr);
    since_ns_ = boot_time_ns();
  }

 private:
  static std::int64_t used() {
    timespec used{};
    ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
    return used.tv_sec * 1'000'000'000 + used.tv_nsec;
  }
  std::int64_t since_ns_ = boot_time_ns();
  std::int64_t used_ns_ = used();
};

}  // namespace

// What was written last is what the program touches first (its stacks are among it): a fault for
// each of these would cost more than to bring them now, while it stands still.
Status LazyMemory::copy_hot() {
  BATON_TRY(OpenPacks packs, another_packs());
  std::vector<char> buffer(CopyPlan::kMostPages * page_bytes);
  const auto pages_each =
      std::max<std::uint64_t>(1, kHotPages / std::max<std::size_t>(1, families_.size()));
  for (auto& [pid, family] : families_) {
    CopyPlan plan(newest_pages(family->lazy.map, pages_each));
    std::uint64_t pages = 0;
    for (auto step = plan.next(); step && pages < pages_each; step = plan.next()) {
      BATON_CHECK(copy_step(*family, *step, packs, buffer));
      pages += step->pages;
    }
  }
  return {};
}

// Once it has failed they are gone.
Result<OpenPacks> LazyMemory::another_packs() const {
  std::lock_guard lock(mutex_);
  if (failure_) return fail(*failure_);
  return packs_.another();
}

std::unique_lock<std::mutex> LazyMemory::lock_in_background() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return !faults_first_; });
  return lock;
}

std::optional<std::pair<LazyMemory::Family*, CopyStep>> LazyMemory::next_step() {
  for (auto& [pid, family] : families_)
    while (const auto step = family->plan.next())
      if (wanted(*family, *step)) return std::pair(family.get(), *step);
  return std::nullopt;
}

bool LazyMemory::wanted(const Family& family, const CopyStep& step) const {
  return std::ranges::any_of(family.spaces, [&](const auto& space) {
    return std::ranges::any_of(step.pieces, [&](const CopyPiece& piece) {
      return space->pending.awaits(piece.address, piece.address + piece.pages * page_bytes);
    });
  });
}

// Once the job runs: it may be some ten milliseconds of work for each gigabyte.
void LazyMemory::plan() {
  {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return begun_ || stopping_ || failure_; });
  }
  std::map<pid_t, CopyPlan> plans;
  for (const auto& [pid, family] : families_) plans.emplace(pid, CopyPlan(family->lazy.map));
  std::lock_guard lock(mutex_);
  for (auto& [pid, plan] : plans) families_.at(pid)->plan = std::move(plan);
  planned_ = true;
  changed_.notify_all();
}

void LazyMemory::copy_in_background() {
  ::pthread_setname_np(::pthread_self(), "page-copy");
  std::vector<char> buffer(CopyPlan::kMostPages * page_bytes);
  auto work = [&]() -> Status {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return planned_ || stopping_ || failure_; });
    if (!planned_) return {};
    lock.unlock();
    BATON_TRY(OpenPacks packs, another_packs());
    lock.lock();
    for (Courtesy courtesy;;) {
      if (stopping_ || failure_) return {};
      lock.unlock();
      BATON_CHECK(fault("restore.lazy.copy"));
      lock = lock_in_background();
      const auto next = next_step();
      if (!next) break;
      lock.unlock();
      BATON_CHECK(copy_step(*next->first, next->second, packs, buffer));
      courtesy.after_step();
      lock = lock_in_background();
    }
    if (--copying_ == 0) complete();
    return {};
  };
  if (Status status = work(); !status) give_up(std::move(status).error());
}

Status LazyMemory::copy_step(Family& family, const CopyStep& step, OpenPacks& packs,
                             std::vector<char>& buffer) {
  BATON_TRY(store::PackReader * pack, packs.get(family.lazy.map.packs[step.pack].hash));
  BATON_TRY(const char* const content, pack->view(step.first, step.pages, buffer.data()));
  for (;;) {
    lock_in_background().unlock();  // whoever serves a fault goes first
    {
      std::shared_lock layout(layout_);
      std::unique_lock lock(mutex_);
      if (stopping_ || failure_) return {};
      const auto parts = parts_of(family, step, content);
      lock.unlock();
      std::vector<Settled> settled;
      bool changing = false;
      Status status;
      for (const Part& part : parts) {
        auto outcome = put(part, settled);
        if (!outcome) status = fail(std::move(outcome).error());
        if (!status) break;
        changing |= *outcome == Put::Changing;
      }
      lock.lock();
      settle(settled);
      BATON_CHECK(std::move(status));
      if (!changing) return {};
    }
    // The thread that serves will be told how at once.
    ::poll(nullptr, 0, kChangingPollMs);
  }
}

// What the kernel has to tell is left to the thread that serves: it alone knows what still waits.
std::vector<LazyMemory::Part> LazyMemory::parts_of(const Family& family, const CopyStep& step,
                                                   const char* data) const {
  std::vector<Part> parts;
  for (const auto& space : family.spaces)
    for (const CopyPiece& piece : step.pieces) {
      const char* content = data + (piece.first - step.first) * page_bytes;
      for (const auto& awaited :
           space->pending.from_image(piece.address, piece.address + piece.pages * page_bytes))
        parts.push_back({space.get(), awaited, content + (awaited.image - piece.address)});
    }
  return parts;
}

void LazyMemory::settle(const std::vector<Settled>& settled) {
  for (const auto& [space, start, end] : settled) space->pending.drop(start, end);
}

Result<LazyMemory::Put> LazyMemory::put(const Part& part, std::vector<Settled>& settled) {
  auto& [space, piece, data] = part;
  std::uint64_t at = piece.start;
  std::size_t most = piece.end - piece.start;
  std::uint64_t asked_again = 0;
  auto passed = [&](std::uint64_t bytes) {
    settled.push_back({space, at, at + bytes});
    at += bytes;
  };
  while (at < piece.end) {
    std::size_t done = 0;
    const std::size_t size = std::min<std::size_t>(most, piece.end - at);
    BATON_TRY(const Outcome outcome,
              space->faults.fill(at, data + (at - piece.start), size, &done));
    switch (outcome) {
      case Outcome::Filled:
      case Outcome::Partly: passed(done); break;
      case Outcome::Present:
        space->faults.wake(at, page_bytes);
        passed(page_bytes);
        break;
      case Outcome::Changing: return Put::Changing;
      case Outcome::Unmapped:
        // Pages of two mappings can't be filled at once. The same is said of a page whose mapping
        // moves at this instant; asked again, the kernel tells of that. What still can't be filled
        // is wanted no more.
        if (size > page_bytes) {
          most = page_bytes;
          break;
        }
        if (std::exchange(asked_again, at) != at) break;
        passed(page_bytes);
        break;
      case Outcome::Ended: settled.push_back({space, 0, UINT64_MAX}); return Put::Done;
    }
  }
  return Put::Done;
}

// Under the lock, and nobody puts pages any more. Closing the last descriptor takes all of this out
// of the job.
void LazyMemory::complete() {
  std::uint64_t missing = 0;
  for (auto& [pid, family] : families_)
    for (auto& space : family->spaces) missing += space->pending.bytes();
  if (missing != 0) {
    spdlog::error("{} bytes of a restored job's memory were left out; ending it", missing);
    failure_ = Error(ErrorCode::Internal, "some of its memory was left out");
    guard_->kill();
    changed_.notify_all();
    return;
  }
  for (auto& [pid, family] : families_) family->spaces.clear();
  strangers_.clear();
  if (Status released = guard_->release(); !released)
    spdlog::debug("after a lazy restore: {}", released.error().message());
  complete_ = true;
  const double ms = static_cast<double>(boot_time_ns() - begun_ns_) / 1e6;
  spdlog::info("memory of a restored job is complete: {} MiB in {:.1f} ms, {} pages on demand",
               bytes_ >> 20, ms, faults_);
  changed_.notify_all();
  const std::uint64_t one = 1;
  (void)!::write(wake_.get(), &one, sizeof one);
}

}  // namespace baton::agent
