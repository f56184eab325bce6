#include "control/retention.h"

#include "core/retention.h"

namespace baton::control {
namespace {

std::vector<core::RetentionItem> items(const JobEntry& entry) {
  std::vector<core::RetentionItem> result;
  for (const auto& [number, info] : entry.checkpoints)
    result.push_back({number, info.taken_wall_ms(), !info.quarantined() && info.damage_size() == 0,
                      info.pins_size() > 0});
  return result;
}

}  // namespace

std::vector<v1::Checkpoint> retire_checkpoints(Loop& loop, JobId job) {
  return loop.with_lock([&](Loop::Locked& l) {
    std::vector<v1::Checkpoint> retired;
    auto entry = l.state.jobs.find(job);
    const core::JobRecord* record = l.state.core.find_job(job);
    if (!record || entry == l.state.jobs.end()) return retired;
    for (CheckpointNumber number : core::superfluous_checkpoints(
             items(entry->second), core::retention_rules(record->policy))) {
      if (l.state.core.checkpoint_in_use(job, number)) continue;
      Loop::Extra extra;
      extra.changes.removed_checkpoints.emplace_back(job, number);
      extra.actions.push_back(DeleteCheckpoint{job, number});
      retired.push_back(std::move(entry->second.checkpoints.at(number)));
      entry->second.checkpoints.erase(number);
      l.apply(core::CheckpointRemoved{job, number}, std::move(extra));
    }
    return retired;
  });
}

}  // namespace baton::control
