// When a job's next checkpoint is due: every interval, start to start. No clock of its own.
#pragma once

#include <algorithm>
#include <cstdint>

namespace baton::agent {

class CheckpointSchedule {
 public:
  static constexpr std::int64_t kFirstMs = 1'000;  // the preflight should be early
  // Between attempts that keep failing: because of the program, which is frozen for each of them,
  // and because of what may be mended at any moment (a full disk, a CRIU that was killed).
  static constexpr std::int64_t kLongestRefusedMs = 60'000;
  static constexpr std::int64_t kLongestMs = 5'000;

  // interval_ms 0: never.
  CheckpointSchedule(std::uint32_t interval_ms, std::int64_t now_ms)
      : interval_ms_(interval_ms),
        due_ms_(now_ms + std::min<std::int64_t>(interval_ms, kFirstMs)) {}

  bool enabled() const { return interval_ms_ > 0; }
  bool due(std::int64_t now_ms) const { return enabled() && now_ms >= due_ms_; }
  std::int64_t due_ms() const { return due_ms_; }

  // One begins now, or would have but for the previous one still being shipped: either way the
  // next is due an interval later.
  void begun(std::int64_t now_ms) { due_ms_ = now_ms + interval_ms_ * slowdown_; }
  void succeeded() { slowdown_ = 1; }
  void failed(bool refused, std::int64_t now_ms) {
    const std::int64_t longest_ms = refused ? kLongestRefusedMs : kLongestMs;
    const std::int64_t most =
        std::max<std::int64_t>(1, longest_ms / std::max(interval_ms_, std::int64_t{1}));
    slowdown_ = std::min(slowdown_ * 2, most);
    due_ms_ = now_ms + interval_ms_ * slowdown_;
  }

 private:
  std::int64_t interval_ms_;
  std::int64_t due_ms_;
  std::int64_t slowdown_ = 1;
};

}  // namespace baton::agent
