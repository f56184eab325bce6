#include "agent/engine/freeze_watch.h"

namespace baton::agent {
namespace {

constexpr std::chrono::milliseconds try_again_after{5};

}  // namespace

FreezeWatch::FreezeWatch(std::chrono::milliseconds limit, std::function<bool()> let_go)
    : limit_(limit), let_go_(std::move(let_go)) {
  if (limit_.count() > 0)
    thread_ = std::jthread([this](std::stop_token stopping) { watch(std::move(stopping)); });
}

FreezeWatch::~FreezeWatch() { end(); }

void FreezeWatch::begin() {
  std::lock_guard lock(mutex_);
  frozen_ = true;
  began_ = std::chrono::steady_clock::now();
  changed_.notify_all();
}

void FreezeWatch::extend(std::chrono::milliseconds by) {
  std::lock_guard lock(mutex_);
  limit_ += by;
}

bool FreezeWatch::end() {
  if (thread_.joinable()) {
    thread_.request_stop();
    thread_.join();
  }
  return ended_it_;
}

void FreezeWatch::watch(std::stop_token stopping) {
  std::unique_lock lock(mutex_);
  if (!changed_.wait(lock, stopping, [&] { return frozen_; })) return;
  while (!stopping.stop_requested()) {
    const auto now = std::chrono::steady_clock::now();
    const bool passed = now >= began_ + limit_;
    if (passed && let_go_()) {
      ended_it_ = true;
      return;
    }
    const auto next = passed ? now + try_again_after : began_ + limit_;
    changed_.wait_until(lock, stopping, next, [] { return false; });
  }
}

}  // namespace baton::agent
