#include "core/policy.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/placement.h"

namespace baton::core {

void ThresholdWatch::observe(double value, double threshold, double clear, std::uint32_t for_ms,
                             TimeMs now) {
  value_ = value;
  if (value < std::min(clear, threshold)) {
    since_.reset();
    fired_at_.reset();
    return;
  }
  if (value < threshold) return;
  if (!since_) since_ = now;
  if (!fired_at_ && now - *since_ >= for_ms) fired_at_ = now;
}

void OverloadWatch::observe(const NodeSample& sample, const Policy& policy, TimeMs now) {
  cpu.observe(sample.cpu_utilization, policy.cpu_threshold, policy.cpu_clear, policy.cpu_for_ms,
              now);
  memory.observe(sample.memory_utilization, policy.memory_threshold, policy.memory_threshold * 0.9,
                 policy.memory_for_ms, now);
}

std::string OverloadWatch::describe(const Policy& policy, TimeMs now) const {
  const ThresholdWatch& watch = firing();
  const double seconds = watch.fired() ? static_cast<double>(now - watch.since()) / 1000 : 0;
  if (cpu.fired()) {
    return fmt::format("CPU {} of its quota for {:.1f} s (threshold {})", percent(cpu.value()),
                       seconds, percent(policy.cpu_threshold));
  }
  return fmt::format("memory {} used for {:.1f} s (threshold {})", percent(memory.value()), seconds,
                     percent(policy.memory_threshold));
}

TimeMs backoff_ms(std::uint32_t failures) {
  if (failures == 0) return 0;
  return std::min<TimeMs>(60'000, TimeMs{1'000} << std::min<std::uint32_t>(failures - 1, 6));
}

}  // namespace baton::core
