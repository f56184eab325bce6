#include "agent/throttle.h"

#include <algorithm>
#include <chrono>

namespace baton::agent {
namespace {

constexpr std::int64_t kNsPerMs = 1'000'000;
// Nothing wakes a waiter when it is given up.
constexpr std::int64_t kLookAgainMs = 50;

}  // namespace

Throttle::Throttle(std::uint64_t bytes_per_second, NowNs now_ns)
    : rate_(bytes_per_second), now_ns_(std::move(now_ns)) {}

// When they may go.
std::int64_t Throttle::reserve(std::uint64_t bytes) {
  std::lock_guard lock(mutex_);
  const std::int64_t begin_ns = std::max(free_at_ns_, now_ns_() - kBurstMs * kNsPerMs);
  const double seconds = static_cast<double>(bytes) / static_cast<double>(rate_);
  free_at_ns_ = begin_ns + static_cast<std::int64_t>(seconds * 1e9);
  return free_at_ns_;
}

void Throttle::pass(std::uint64_t bytes, const std::atomic<bool>& given_up, CancelToken& cancel) {
  if (rate_ == 0) return;
  const std::int64_t at_ns = reserve(bytes);
  while (!given_up) {
    const std::int64_t left_ms = (at_ns - now_ns_() + kNsPerMs - 1) / kNsPerMs;
    if (left_ms <= 0) return;
    if (cancel.wait_for(std::chrono::milliseconds(std::min(left_ms, kLookAgainMs)))) return;
  }
}

}  // namespace baton::agent
