// Ends a freeze that lasts too long. Internal to the engine.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

namespace baton::agent {

// Made before the freeze, so that no thread is started in it. All calls but extend() are made by
// one thread.
class FreezeWatch {
 public:
  // `let_go` is called in a thread of the watch's own when the freeze has lasted for `limit`. It
  // returns true when it has ended the freeze; until then, and until end(), it is called again
  // every few milliseconds. A limit of 0 never passes.
  FreezeWatch(std::chrono::milliseconds limit, std::function<bool()> let_go);
  ~FreezeWatch();
  FreezeWatch(const FreezeWatch&) = delete;
  FreezeWatch& operator=(const FreezeWatch&) = delete;

  void begin();
  // There is more to do in this freeze than was known.
  void extend(std::chrono::milliseconds by);
  // After this, `let_go` is not called any more. Whether the watch ended the freeze.
  bool end();
  std::chrono::milliseconds limit() const { return limit_; }

 private:
  void watch(std::stop_token stopping);

  std::chrono::milliseconds limit_;  // guarded by mutex_ while the thread runs
  const std::function<bool()> let_go_;
  std::mutex mutex_;
  std::condition_variable_any changed_;
  bool frozen_ = false;
  std::chrono::steady_clock::time_point began_;
  bool ended_it_ = false;
  std::jthread thread_;
};

}  // namespace baton::agent
