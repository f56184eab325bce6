#include "agent/ready_keeper.h"

#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <vector>

#include "base/log.h"
#include "sys/priority.h"

namespace baton::agent {

ReadyKeeper::ReadyKeeper(std::function<std::uint64_t()> budget)
    : budget_(std::move(budget)), thread_([this] {
        ::pthread_setname_np(::pthread_self(), "ready");
        sys::lower_priority_of(0);  // this thread
        work();
      }) {}

ReadyKeeper::~ReadyKeeper() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    at_work_.request_stop();
  }
  changed_.notify_all();
  thread_.join();
}

void ReadyKeeper::staged(JobId job, std::shared_ptr<LocalCopy> copy) {
  {
    std::lock_guard lock(mutex_);
    jobs_[job].newer.swap(copy);  // the other may be removed from the disk with its last holder
  }
  changed_.notify_all();
}

void ReadyKeeper::await(JobId job, CheckpointNumber number, std::chrono::milliseconds most) {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, most, [&] {
    const auto found = jobs_.find(job);
    return stopping_ || found == jobs_.end() || found->second.tried >= number;
  });
}

void ReadyKeeper::drop(JobId job) { (void)take(job); }

std::shared_ptr<const ReadyPacks> ReadyKeeper::take(JobId job) {
  std::map<JobId, Entry>::node_type entry;  // let go of without the lock
  {
    std::lock_guard lock(mutex_);
    if (at_work_on_ == job) at_work_.request_stop();
    entry = jobs_.extract(job);
  }
  changed_.notify_all();
  return entry ? std::move(entry.mapped().packs) : nullptr;
}

std::uint64_t ReadyKeeper::bytes() const {
  std::lock_guard lock(mutex_);
  return bytes_but(JobId());
}

std::uint64_t ReadyKeeper::bytes_but(JobId job) const {
  std::uint64_t bytes = 0;
  for (const auto& [other, entry] : jobs_)
    if (other != job && entry.packs) bytes += entry.packs->bytes();
  return bytes;
}

void ReadyKeeper::settle() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] {
    return at_work_on_ == JobId() &&
           std::ranges::none_of(jobs_, [](const auto& job) { return job.second.newer != nullptr; });
  });
}

// In turn, so that one that is staged all the time does not keep others waiting.
std::map<JobId, ReadyKeeper::Entry>::iterator ReadyKeeper::next() {
  const auto is_due = [](const auto& job) { return job.second.newer != nullptr; };
  const auto after = jobs_.upper_bound(last_);
  if (auto found = std::find_if(after, jobs_.end(), is_due); found != jobs_.end()) return found;
  const auto found = std::find_if(jobs_.begin(), after, is_due);
  return found == after ? jobs_.end() : found;
}

void ReadyKeeper::work() {
  constexpr std::chrono::seconds kLookAgain{5};
  std::unique_lock lock(mutex_);
  for (;;) {
    const bool due =
        changed_.wait_for(lock, kLookAgain, [&] { return stopping_ || next() != jobs_.end(); });
    if (stopping_) return;
    if (due) make(last_ = next()->first, lock);
    shed(lock);
    at_work_on_ = JobId();
    changed_.notify_all();
  }
}

void ReadyKeeper::make(JobId job, std::unique_lock<std::mutex>& lock) {
  Entry& entry = jobs_.at(job);
  std::shared_ptr<LocalCopy> copy = std::move(entry.newer);
  std::shared_ptr<const ReadyPacks> earlier = entry.packs;
  const std::uint64_t others = bytes_but(job);
  at_work_ = std::stop_source();
  at_work_on_ = job;
  const std::stop_token given_up = at_work_.get_token();
  lock.unlock();
  const std::uint64_t budget = budget_();
  // Not all of it, so that what is there need not go when there is a little less.
  const std::uint64_t room = budget / 8 * 7;
  auto made =
      ReadyPacks::make(copy->directory(), earlier.get(), room - std::min(room, others), given_up);
  if (!made && made.error().code() != ErrorCode::Cancelled)
    spdlog::debug("job {}: its memory is not kept ready: {}", job, made.error().message());
  const CheckpointNumber number(copy->info().number());
  copy.reset();
  std::shared_ptr<const ReadyPacks> packs = made ? std::move(*made) : nullptr;
  lock.lock();
  // It may have been taken meanwhile, and even be staged again.
  if (auto found = jobs_.find(job); found != jobs_.end() && !given_up.stop_requested()) {
    found->second.packs.swap(packs);
    found->second.tried = number;
  }
  lock.unlock();  // for what is not kept any more
  packs.reset();
  earlier.reset();
  lock.lock();
}

void ReadyKeeper::shed(std::unique_lock<std::mutex>& lock) {
  lock.unlock();
  const std::uint64_t budget = budget_();
  std::vector<std::shared_ptr<const ReadyPacks>> given_back;  // without the lock
  lock.lock();
  while (bytes_but(JobId()) > budget) {
    auto largest = std::ranges::max_element(jobs_, {}, [](const auto& job) {
      return job.second.packs ? job.second.packs->bytes() : 0;
    });
    given_back.push_back(std::move(largest->second.packs));
  }
  if (given_back.empty()) return;
  lock.unlock();
  given_back.clear();
  lock.lock();
}

}  // namespace baton::agent
