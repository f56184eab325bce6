#include "core/retention.h"

#include <algorithm>
#include <ranges>

namespace baton::core {
namespace {

constexpr std::size_t kKeptBad = 2;
constexpr std::int64_t kHourMs = 3'600'000;
constexpr std::int64_t kDayMs = 24 * kHourMs;

// Keeps the first of each period it is shown, up to a number of periods. Times come from the
// clocks of several nodes and need not fall, so a period is remembered.
class Periods {
 public:
  Periods(std::int64_t period_ms, std::uint32_t count) : period_ms_(period_ms), count_(count) {}

  bool keeps(std::int64_t wall_ms) {
    if (seen_.size() >= count_) return false;
    return seen_.insert(wall_ms / period_ms_).second;
  }

 private:
  const std::int64_t period_ms_;
  const std::size_t count_;
  std::set<std::int64_t> seen_;
};

}  // namespace

RetentionRules retention_rules(const Policy& policy) {
  return {policy.keep_checkpoints, policy.keep_hourly, policy.keep_daily};
}

std::vector<CheckpointNumber> superfluous_checkpoints(std::span<const RetentionItem> items,
                                                      const RetentionRules& rules) {
  std::vector<CheckpointNumber> superfluous;
  const std::size_t last = std::max<std::size_t>(rules.last, 1);
  Periods hours(kHourMs, rules.hourly), days(kDayMs, rules.daily);
  std::size_t good = 0;
  std::size_t bad = 0;
  for (const RetentionItem& item : items | std::views::reverse) {
    bool kept = item.pinned;
    if (item.good) {
      // Every rule looks at every checkpoint, kept or not.
      kept |= ++good <= last;
      kept |= hours.keeps(item.taken_wall_ms);
      kept |= days.keeps(item.taken_wall_ms);
    } else {
      kept |= ++bad <= kKeptBad;
    }
    if (!kept) superfluous.push_back(item.number);
  }
  return superfluous;
}

}  // namespace baton::core
