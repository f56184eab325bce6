// Moves that nobody asked for: overload, a node about to fail, a drain.
#include <algorithm>

#include "core/impl.h"

namespace baton::core {

// A planned move's source has the job until the move is over.
std::uint32_t Cluster::Impl::moves_from(const Node& node) const {
  std::uint32_t count = 0;
  for (JobId id : node.jobs) {
    const auto& move = jobs_.at(id).move;
    count += move && move->planned && move->from == node.id() ? 1 : 0;
  }
  return count;
}

void Cluster::Impl::run_policies(Node& node) {
  if (!node.reachable()) return;
  if (node.has_sample) watch_overload(node);
  if (node.sample.about_to_fail) {
    if (!node.about_to_fail_told) {
      tell(event::kAboutToFail, nullptr, node.id(),
           fmt::format("{}: is about to fail: {}", node.id(), node.sample.about_to_fail_cause));
      look_for_standbys(node);
    }
    node.about_to_fail_told = true;
    evacuate(node, Cause::AboutToFail, config_.evacuate_parallel);
  } else {
    node.about_to_fail_told = false;
    if (node.record.draining) evacuate(node, Cause::Drain, config_.drain_parallel);
  }
  if (node.record.draining && jobs_on(node.id()) == 0) {
    set_drain_end(node, {});
    if (!std::exchange(node.drained_told, true)) {
      tell(event::kNodeDrained, nullptr, node.id(),
           fmt::format("{}: drained, no job is left", node.id()));
    }
  }
  if (node.has_sample) relieve(node);
}

// Its time is up. What moves now is undone by its own deadline, which is the same.
void Cluster::Impl::drain_is_over(Node& node) {
  set_drain_end(node, {});
  if (!node.record.draining) return;
  node.record.draining = false;
  node.record.cordoned = true;
  save(node);
  std::string left;
  for (JobId id : node.jobs) {
    const Job& job = jobs_.at(id);
    if (!job.r.current || job.r.current->node != node.id()) continue;
    left += (left.empty() ? "" : ", ") + job.name();
  }
  tell(event::kDrainOver, nullptr, node.id(),
       fmt::format("{}: its drain ran out of time and ended; left on it: {}", node.id(),
                   left.empty() ? "nothing" : left));
}

void Cluster::Impl::watch_overload(Node& node) {
  const bool was = node.watch.fired();
  node.watch.observe(node.sample, config_.policy, now_);
  if (was && !node.watch.fired()) {
    node.no_target_told = false;
    if (node.overload_told) {
      tell(event::kOverloadOver, nullptr, node.id(),
           fmt::format("{}: no longer overloaded (CPU {}, memory {})", node.id(),
                       percent(node.sample.cpu_utilization),
                       percent(node.sample.memory_utilization)));
    }
    node.overload_told = false;
  }
  auto announce = [&](const OverloadWatch& watch, const Policy& policy) {
    if (node.overload_told) return;
    node.overload_told = true;
    tell(event::kOverload, nullptr, node.id(),
         fmt::format("{}: {}", node.id(), watch.describe(policy, now_)));
  };
  if (node.watch.fired()) announce(node.watch, config_.policy);
  bool any_job = false;
  for (JobId id : node.jobs) {
    Job& job = jobs_.at(id);
    if (!job.r.current || job.r.current->node != node.id()) continue;
    job.watch.observe(node.sample, job.r.policy, now_);
    any_job = any_job || job.watch.fired();
    if (job.watch.fired()) announce(job.watch, job.r.policy);
  }
  if (!node.watch.fired() && !any_job) node.overload_told = node.no_target_told = false;
}

bool Cluster::Impl::may_move(Job& job, const Node& node, const std::string& because) {
  if (!job.r.current || job.r.current->node != node.id() || job.move || job.r.desired_stop ||
      job.end_current || has_ended(job.r.state) || job.move_again_at > now_) {
    return false;
  }
  if (job.r.unprotected_cause.empty()) return true;
  if (!job.stuck_told) {
    job.stuck_told = true;
    tell(event::kNoTarget, &job, node.id(),
         fmt::format("{}: stays on {} although {}: it can't be checkpointed: {}", job.name(),
                     node.id(), because, job.r.unprotected_cause));
  }
  return false;
}

void Cluster::Impl::evacuate(Node& node, Cause cause, std::uint32_t parallel) {
  const bool drain = cause == Cause::Drain;
  const std::string because =
      drain ? fmt::format("{} is being drained", node.id())
            : fmt::format("{} is about to fail ({})", node.id(), node.sample.about_to_fail_cause);
  for (JobId id : node.jobs) {
    Job& job = jobs_.at(id);
    if (moves_from(node) >= parallel) return;
    if (!may_move(job, node, because)) continue;
    PlacementRequest request = wish(job, drain ? Urgency::Normal : Urgency::Rescue, {}, nullptr);
    request.excluded[node.id()] = "is where it runs";
    request.preferred = job.standby;
    const Placement placement = place_job(request);
    if (placement.node) {
      Move move{.cause = cause, .to = *placement.node, .fired_at = now_};
      if (drain) move.give_up_at = node.drain_until;
      start_move(job, std::move(move), because);
    } else if (!job.stuck_told) {
      job.stuck_told = true;
      tell(event::kNoTarget, &job, node.id(),
           fmt::format("{}: stays on {} although {}: {}", job.name(), node.id(), because,
                       placement.why_none()));
    }
  }
}

// One job at a time, and the next only after the figures had time to follow. The job that came
// last goes first: what was added last is the likeliest cause, and has waited least since its last
// move.
void Cluster::Impl::relieve(Node& node) {
  if (moves_from(node) > 0 || now_ < node.settle_until) return;
  std::vector<Job*> order;
  for (JobId id : node.jobs) {
    Job& job = jobs_.at(id);
    const bool here = job.r.current && job.r.current->node == node.id();
    if (here && job.watch.fired() && job.r.policy.migrate_on_overload) order.push_back(&job);
  }
  std::ranges::stable_sort(order, [](const Job* a, const Job* b) {
    return a->arrived_at != b->arrived_at ? a->arrived_at > b->arrived_at : a->id() > b->id();
  });
  std::string nowhere;
  for (Job* job : order) {
    const bool memory = job->watch.cause() == Cause::MemoryPressure;
    const std::string because =
        fmt::format("{} is {}", node.id(), memory ? "short of memory" : "overloaded");
    if (!may_move(*job, node, because)) continue;
    const TimeMs cooldown = job->r.policy.cooldown_ms;
    if (job->policy_moved_at && now_ - *job->policy_moved_at < cooldown) continue;
    PlacementRequest request = wish(*job, Urgency::Relief, {}, nullptr);
    request.excluded[node.id()] = "is where it runs";
    request.preferred = job->standby;
    if (!job->fled_node.value.empty() && now_ - job->fled_at < cooldown) {
      request.excluded.emplace(job->fled_node, "is where it came from, for the same reason");
    }
    const Placement placement = place_job(request);
    if (!placement.node) {
      if (nowhere.empty()) nowhere = fmt::format("{}: {}", job->name(), placement.why_none());
      continue;
    }
    const ThresholdWatch& watch = job->watch.firing();
    const double at_target = find(*placement.node)->sample.cpu_utilization;
    Move move{.cause = job->watch.cause(), .to = *placement.node};
    move.detect_ms = static_cast<double>(watch.fired_at() - watch.since());
    move.fired_at = watch.fired_at();
    return start_move(*job, std::move(move),
                      fmt::format("{}; {} is at {}", because, *placement.node, percent(at_target)));
  }
  if (nowhere.empty() || node.no_target_told) return;
  node.no_target_told = true;
  tell(event::kNoTarget, nullptr, node.id(),
       fmt::format("{}: is overloaded, but nothing can be moved off it: {}", node.id(), nowhere));
}

void Cluster::Impl::start_move(Job& job, Move move, const std::string& because) {
  move.planned = true;
  move.from = job.r.current->node;
  move.why = because;
  const bool back = move.pinned.value != 0;
  tell(event::kDecide, &job, move.from,
       back ? fmt::format("{}: going back to checkpoint {} on {} because {}", job.name(),
                          move.pinned.value, move.to, because)
            : fmt::format("{}: moving from {} to {} because {}", job.name(), move.from, move.to,
                          because));
  job.move = std::move(move);
  job.excluded.clear();
  mark(job);
}

}  // namespace baton::core
