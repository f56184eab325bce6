// Which checkpoints of a job may go. A pure function of what there is: no clock, so a job that has
// ended keeps what it has.
#pragma once

#include <span>
#include <vector>

#include "core/types.h"

namespace baton::core {

// A checkpoint as retention sees it.
struct RetentionItem {
  CheckpointNumber number;
  std::int64_t taken_wall_ms = 0;
  bool good = true;  // neither quarantined nor known to be damaged
  bool pinned = false;
};

// How many are kept; each rule keeps its own, beside those of the others.
struct RetentionRules {
  std::uint32_t last = 3;  // the newest so many good ones; at least one, whatever it says
  // The newest good one of each of the last so many hours (days), in UTC, that have a good one.
  std::uint32_t hourly = 0;
  std::uint32_t daily = 0;
};

RetentionRules retention_rules(const Policy& policy);

// The numbers of those that may go, newest first. Never among them: a pinned one, and the newest
// good one. Of those that are not good the newest two stay for a look at what is wrong.
// `items`: ascending by number.
std::vector<CheckpointNumber> superfluous_checkpoints(std::span<const RetentionItem> items,
                                                      const RetentionRules& rules);

}  // namespace baton::core
