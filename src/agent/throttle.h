// A limit on the rate of what is not urgent, so that checkpoints leave room on the wire for others.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>

#include "agent/cancel.h"

namespace baton::agent {

// Thread-safe; who comes first goes first.
class Throttle {
 public:
  using NowNs = std::function<std::int64_t()>;

  // 0: no limit. Up to kBurstMs worth of it may go at once after a pause.
  explicit Throttle(std::uint64_t bytes_per_second, NowNs now_ns);

  // Waits until so many bytes may go. Returns early when cancelled or when `given_up` becomes true.
  void pass(std::uint64_t bytes, const std::atomic<bool>& given_up, CancelToken& cancel);

  static constexpr std::int64_t kBurstMs = 100;

 private:
  std::int64_t reserve(std::uint64_t bytes);

  const std::uint64_t rate_;
  const NowNs now_ns_;
  std::mutex mutex_;
  std::int64_t free_at_ns_ = 0;  // all that was let pass until now is through by then
};

}  // namespace baton::agent
