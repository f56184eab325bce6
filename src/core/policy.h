// When a node counts as overloaded: a threshold over a time, with hysteresis.
#pragma once

#include <optional>

#include "core/types.h"

namespace baton::core {

// Watches one value. The clock starts with the first sample at or above `threshold`, runs on in
// between, and is reset only by a sample below `clear`. The rule has fired when a sample at or
// above the threshold comes `for_ms` or more after the clock started.
class ThresholdWatch {
 public:
  void observe(double value, double threshold, double clear, std::uint32_t for_ms, TimeMs now);
  void reset() { *this = {}; }

  bool fired() const { return fired_at_.has_value(); }
  // When the value first crossed the threshold, and when the rule fired; both while fired().
  TimeMs since() const { return *since_; }
  TimeMs fired_at() const { return *fired_at_; }
  double value() const { return value_; }

 private:
  std::optional<TimeMs> since_;
  std::optional<TimeMs> fired_at_;
  double value_ = 0;
};

// CPU and memory of one node by one policy. Memory has no clear mark of its own: 90 % of its
// threshold serves.
struct OverloadWatch {
  ThresholdWatch cpu;
  ThresholdWatch memory;

  void observe(const NodeSample& sample, const Policy& policy, TimeMs now);
  bool fired() const { return cpu.fired() || memory.fired(); }
  Cause cause() const { return cpu.fired() ? Cause::CpuOverload : Cause::MemoryPressure; }
  const ThresholdWatch& firing() const { return cpu.fired() ? cpu : memory; }
  // "CPU 98 % of its quota for 3.0 s (threshold 85 %)"
  std::string describe(const Policy& policy, TimeMs now) const;
};

// 1 s, 2 s, 4 s … 60 s for failures 1, 2, 3 …
TimeMs backoff_ms(std::uint32_t failures);

}  // namespace baton::core
