// Does slow, unimportant work (deleting files) on a thread of its own, in order. What is left at
// the end is not done: the next start finds and removes what nothing refers to.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

namespace baton::control {

class Cleaner {
 public:
  Cleaner() : thread_([this](std::stop_token stop) { run(stop); }) {}

  void post(std::function<void()> work) {
    std::lock_guard lock(mutex_);
    work_.push_back(std::move(work));
    posted_.notify_one();
  }

 private:
  void run(std::stop_token stop) {
    std::unique_lock lock(mutex_);
    while (posted_.wait(lock, stop, [&] { return !work_.empty(); }) && !stop.stop_requested()) {
      auto work = std::move(work_.front());
      work_.pop_front();
      lock.unlock();
      work();
      lock.lock();
    }
  }

  std::mutex mutex_;
  std::condition_variable_any posted_;
  std::deque<std::function<void()>> work_;
  std::jthread thread_;
};

}  // namespace baton::control
