// Lets a few jobs stand still at a time. Each freeze keeps two threads busy, which go before all
// others: more of them than there are processors for stand still for each other, and keep whoever
// else is on the node, the controller or an agent's connection, from its processor. Internal to the
// engine.
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <utility>

namespace baton::agent {

// Thread-safe.
class FreezeGate {
 public:
  explicit FreezeGate(unsigned at_once) : free_(at_once) {}

  // Over when it is destroyed. The gate outlives it.
  class Turn {
   public:
    explicit Turn(FreezeGate* gate) : gate_(gate) {}
    Turn(Turn&& other) noexcept : gate_(std::exchange(other.gate_, nullptr)) {}
    ~Turn() {
      if (gate_) gate_->leave();
    }

   private:
    FreezeGate* gate_;  // null: it did not wait any longer
  };

  // The job runs while this waits; at most so long, since one that takes long must not keep others
  // from their checkpoints.
  Turn wait(std::chrono::milliseconds most) {
    std::unique_lock lock(mutex_);
    if (!changed_.wait_for(lock, most, [this] { return free_ > 0; })) return Turn(nullptr);
    --free_;
    return Turn(this);
  }

 private:
  void leave() {
    {
      std::lock_guard lock(mutex_);
      ++free_;
    }
    changed_.notify_one();
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  unsigned free_;
};

}  // namespace baton::agent
