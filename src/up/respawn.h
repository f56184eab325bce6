// When to start a service again: at once, but with growing pauses if it keeps dying young.
#pragma once

#include <algorithm>
#include <cstdint>

#include "base/clock.h"

namespace baton::up {

class Respawn {
 public:
  bool due() const { return at_ms_ >= 0 && boot_time_ms() >= at_ms_; }
  // For poll(): until due, -1 for never.
  int wait_ms() const {
    if (at_ms_ < 0) return -1;
    return static_cast<int>(std::max<std::int64_t>(0, at_ms_ - boot_time_ms()));
  }
  void started() { started_ms_ = boot_time_ms(); }
  void ended() {
    const bool young = boot_time_ms() - started_ms_ < kYoungMs;
    pause_ms_ = young ? std::clamp<std::int64_t>(pause_ms_ * 2, kFirstPauseMs, kLongestPauseMs) : 0;
    at_ms_ = boot_time_ms() + pause_ms_;
  }
  void never() { at_ms_ = -1; }

 private:
  static constexpr std::int64_t kYoungMs = 1'000;
  static constexpr std::int64_t kFirstPauseMs = 100;
  static constexpr std::int64_t kLongestPauseMs = 5'000;

  std::int64_t at_ms_ = 0;
  std::int64_t started_ms_ = 0;
  std::int64_t pause_ms_ = 0;
};

}  // namespace baton::up
