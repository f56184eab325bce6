#include "agent/ready_keeper.h"

#include <pthread.h>

#include <algorithm>

#include "agent/priority.h"
#include "base/log.h"

namespace baton::agent {

ReadyKeeper::ReadyKeeper(std::function<std::uint64_t()> budget)
    : budget_(std::move(budget)), thread_([this] {
        ::pthread_setname_np(::pthread_self(), "ready");
        lower_priority_of(0);  // this thread
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
    jobs_[job].newer = std::move(copy);
  }
  changed_.notify_all();
}

void ReadyKeeper::drop(JobId job) { (void)take(job); }

std::shared_ptr<const ReadyPacks> ReadyKeeper::take(JobId job) {
  std::lock_guard lock(mutex_);
  if (at_work_on_ == job) at_work_.request_stop();
  auto entry = jobs_.extract(job);
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

void ReadyKeeper::work() {
  std::unique_lock lock(mutex_);
  for (;;) {
    auto next = jobs_.end();
    changed_.wait(lock, [&] {
      next = std::ranges::find_if(jobs_, [](const auto& job) { return job.second.newer != nullptr; });
      return stopping_ || next != jobs_.end();
    });
    if (stopping_) return;
    make(next->first, lock);
    changed_.notify_all();
  }
}

void ReadyKeeper::make(JobId job, std::unique_lock<std::mutex>& lock) {
  Entry& entry = jobs_.at(job);
  const std::shared_ptr<LocalCopy> copy = std::move(entry.newer);
  const std::shared_ptr<const ReadyPacks> earlier = entry.packs;
  const std::uint64_t others = bytes_but(job);
  at_work_ = std::stop_source();
  at_work_on_ = job;
  const std::stop_token given_up = at_work_.get_token();
  lock.unlock();
  const std::uint64_t budget = budget_();
  auto packs = ReadyPacks::make(copy->directory(), earlier.get(), budget - std::min(budget, others),
                                given_up);
  if (!packs && packs.error().code() != ErrorCode::Cancelled)
    spdlog::debug("job {}: its memory is not kept ready: {}", job, packs.error().message());
  lock.lock();
  at_work_on_ = JobId();
  // It may have been taken meanwhile, and even be staged again.
  if (auto found = jobs_.find(job); found != jobs_.end() && !given_up.stop_requested())
    found->second.packs = packs ? std::move(*packs) : nullptr;
}

}  // namespace baton::agent
