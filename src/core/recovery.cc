// Jobs without an incarnation: first starts and recoveries.
#include <algorithm>

#include "core/impl.h"

namespace baton::core {
namespace {

constexpr TimeMs kQuickDeathMs = 10'000;

}  // namespace

void Cluster::Impl::begin_recovery(Job& job, Cause cause, std::string why, TimeMs last_sign,
                                   TimeMs first_sign) {
  Move& move = job.move.emplace();
  move.cause = cause;
  move.from = job.last_node;
  move.why = why;
  // A job that does not live long after each restore must not be restored for ever.
  const bool by_itself = cause == Cause::Accident && now_ - job.arrived_at < kQuickDeathMs;
  job.quick_deaths = by_itself ? job.quick_deaths + 1 : 0;
  job.r.failed_attempts = job.quick_deaths;
  if (by_itself) {
    job.retry_at = now_ + backoff_ms(job.quick_deaths - 1);
    job.r.last_error = why;
  }
  move.fired_at = now_;
  move.detect_ms = static_cast<double>(now_ - first_sign);
  move.down_since = last_sign;
  job.excluded.clear();
  job.stuck_told = false;
  mark(job);
}

// A job without an incarnation: its first start, or a recovery.
void Cluster::Impl::drive_start(Job& job) {
  const bool first = !job.move;
  job.waiting = false;
  if (!first && job.move->cause == Cause::NodeLost && !job.r.policy.recover_on_node_lost) {
    return end(job, JobState::Failed, std::nullopt,
               fmt::format("{} was lost, and this job's policy is not to recover", job.move->from));
  }
  if (job.r.failed_attempts >= config_.restore_attempts) {
    return end(
        job, JobState::Failed, std::nullopt,
        fmt::format("gave up after {} attempts: {}", job.r.failed_attempts, job.r.last_error));
  }
  if (job.retry_at > now_) return;
  const CheckpointFacts* from = nullptr;
  if (!first) {
    from = job.move->pinned.value != 0 ? checkpoint(job, job.move->pinned) : newest_usable(job);
    const bool named_is_bad =
        job.move->pinned.value != 0 && (from == nullptr || job.move->pinned_failed);
    if (named_is_bad) return end(job, JobState::Failed, std::nullopt, job.r.last_error);
    // Starting over repeats whatever the job has done to the world: only if it never ran, or if
    // its user said so.
    if (from == nullptr && job.ever_ran && job.r.restart == RestartPolicy::Never) {
      return end(job, JobState::Failed, std::nullopt,
                 "there is no checkpoint that could be restored, and its restart policy is never");
    }
  }
  NodeId only = first ? job.r.needs.wanted_node : job.move->only;
  if (const Node* wanted = find(only); wanted != nullptr && wanted->record.lost) only = {};
  const Urgency urgency = !only.value.empty() ? Urgency::Named
                          : first             ? Urgency::Normal
                                              : Urgency::Rescue;
  PlacementRequest request = wish(job, urgency, only, from);
  // Where it is ready, or most of it.
  CheckpointNumber newest_there;
  for (const auto& [id, staged] : job.staged) {
    if (staged.ready.value == 0 || staged.ready < newest_there) continue;
    newest_there = staged.ready;
    request.preferred = id;
  }
  const Placement placement = place_job(request);
  if (placement.node) {
    launch(job, *placement.node, from != nullptr ? from->number : CheckpointNumber{});
    return;
  }
  if (!job.excluded.empty()) {
    // Every node that could has failed it; a full disk or a hung mount may pass.
    if (!only.value.empty()) return end(job, JobState::Failed, std::nullopt, job.r.last_error);
    job.excluded.clear();
    job.retry_at = now_ + backoff_ms(std::max(1u, job.r.failed_attempts));
    return;
  }
  job.waiting = true;
  job.r.reason = placement.why_none();
  if (job.stuck_told) return;
  job.stuck_told = true;
  save(job);
  tell(first ? event::kJobPending : event::kNoTarget, &job, {},
       fmt::format("{}: waits: {}", job.name(), job.r.reason));
}

}  // namespace baton::core
