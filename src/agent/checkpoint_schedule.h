// When a job's next checkpoint is due: every interval, start to start. No clock of its own.
#pragma once

#include <algorithm>
#include <cstdint>

namespace baton::agent {

class CheckpointSchedule {
 public:
  static constexpr std::int64_t kFirstMs = 1'000;     // the preflight should be early
  static constexpr std::int64_t kLongestMs = 60'000;  // between attempts that keep failing

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
  // A program that can't be checkpointed is frozen for each attempt; try less and less often.
  void failed(std::int64_t now_ms) {
    const std::int64_t most =
        std::max<std::int64_t>(1, kLongestMs / std::max(interval_ms_, std::int64_t{1}));
    slowdown_ = std::min(slowdown_ * 2, most);
    due_ms_ = now_ms + interval_ms_ * slowdown_;
  }

 private:
  std::int64_t interval_ms_;
  std::int64_t due_ms_;
  std::int64_t slowdown_ = 1;
};

}  // namespace baton::agent
