// Checkpoints: which there are, which may be restored, and whether the job is protected by them.
#include <algorithm>

#include "core/impl.h"

namespace baton::core {
namespace {

// A checkpoint that failed to restore for reasons that need not be its own, so often: try the one
// before.
constexpr std::uint32_t kInternalFailuresPerCheckpoint = 2;

}  // namespace

void Cluster::Impl::on(const CheckpointCommitted& input) {
  Job* job = find(input.job);
  if (job == nullptr) return;
  auto& all = job->r.checkpoints;
  if (checkpoint(*job, input.facts.number) != nullptr) return;
  all.push_back(input.facts);
  mark(*job);
  std::ranges::sort(all, {}, &CheckpointFacts::number);
  if (!job->r.current || job->r.current->generation != input.generation) {
    // Contract broken, or a race lost inside of control: never restore from another past.
    return quarantine(*job, input.facts.number, "it came from an incarnation that was superseded");
  }
  if (job->checkpoints_failing) {
    job->checkpoints_failing = false;
    tell(event::kCheckpoint, job, job->r.current->node,
         fmt::format("{}: checkpoints work again", job->name()), input.facts.number);
  }
  tell(event::kCheckpoint, job, job->r.current->node,
       fmt::format("{}: checkpoint {} taken on {}", job->name(), input.facts.number.value,
                   job->r.current->node),
       input.facts.number);
  if (!job->r.preflight_failed && !job->r.unprotected_cause.empty()) {
    job->r.unprotected_cause.clear();
    save(*job);
  }
  refresh_protection(*job);
}

void Cluster::Impl::on(const CheckpointReported& input) {
  Job* found = find(input.job);
  if (found == nullptr) return;
  Job& job = *found;
  if (!job.r.current || job.r.current->generation != input.generation) return;
  if (input.failure == FailureKind::None) {
    if (input.preflight) {
      job.r.preflight_failed = false;
      for (CheckpointFacts& facts : job.r.checkpoints) {
        if (facts.number == input.checkpoint) facts.preflighted = true;
      }
    }
    if (!job.r.preflight_failed) job.r.unprotected_cause.clear();
    save(job);
    return refresh_protection(job);
  }
  const std::string error = with_kind(input.failure, input.error);
  const bool news = !job.checkpoints_failing || job.r.last_error != error;
  job.r.last_error = error;
  job.r.last_error_log = input.log_tail;
  save(job);
  if (input.preflight || input.failure == FailureKind::Refused) {
    return set_unprotected(job, error, input.preflight);
  }
  job.checkpoints_failing = true;
  if (news) {
    tell(event::kCheckpointFailed, &job, job.r.current->node,
         fmt::format(
             "{}: a checkpoint on {} failed: {}; the job runs on, its last checkpoint stands",
             job.name(), job.r.current->node, error));
  }
}

void Cluster::Impl::on(const CheckpointRemoved& input) {
  Job* job = find(input.job);
  if (job == nullptr) return;
  std::erase_if(job->r.checkpoints,
                [&](const CheckpointFacts& facts) { return facts.number == input.number; });
  refresh_protection(*job);
}

void Cluster::Impl::on(const CheckpointVerified& input) {
  Job* job = find(input.job);
  if (job == nullptr) return;
  for (CheckpointFacts& facts : job->r.checkpoints) {
    if (facts.number != input.number || facts.damaged == input.damaged) continue;
    facts.damaged = input.damaged;
    if (input.damaged) {
      tell(event::kDamaged, job, {},
           fmt::format("{}: checkpoint {} is damaged and will be tried last: {}", job->name(),
                       input.number.value, input.damage),
           input.number);
    }
    refresh_protection(*job);
  }
}

void Cluster::Impl::checkpoint_done(Job& job, const OrderDone& done) {
  if (!job.checkpoint_asked) return;
  if (done.failure == FailureKind::Refused) set_unprotected(job, done.error, false);
  finish_checkpoint(job, done.checkpoint, done.failure, done.error);
  if (done.failure == FailureKind::BrokenIncarnation) {
    current_gone(job, Cause::Accident,
                 fmt::format("a checkpoint on {} broke it: {}", done.node, done.error), now_, now_);
  }
}

void Cluster::Impl::finish_checkpoint(Job& job, CheckpointNumber number, FailureKind kind,
                                      const std::string& error) {
  job.checkpoint_asked = false;
  out(CheckpointFinished{job.id(), number, kind, error, std::move(job.checkpoint_requests)});
  job.checkpoint_requests.clear();
}

void Cluster::Impl::set_unprotected(Job& job, const std::string& cause, bool preflight) {
  const bool news = job.r.unprotected_cause != cause;
  job.r.unprotected_cause = cause;
  job.r.preflight_failed = preflight || job.r.preflight_failed;
  save(job);
  if (news) {
    tell(event::kUnprotected, &job, job.r.current ? job.r.current->node : NodeId{},
         fmt::format("{}: runs on unprotected: {}", job.name(), cause));
  }
  refresh_protection(job);
}

void Cluster::Impl::refresh_protection(Job& job) {
  const CheckpointFacts* newest = newest_usable(job);
  const bool is = job.r.unprotected_cause.empty() && newest != nullptr && !newest->damaged;
  if (is == job.r.is_protected) return;
  job.r.is_protected = is;
  save(job);
  if (is) {
    tell(event::kProtected, &job, job.r.current ? job.r.current->node : NodeId{},
         fmt::format("{}: is protected", job.name()));
  }
}

const CheckpointFacts* Cluster::Impl::checkpoint(const Job& job, CheckpointNumber number) const {
  for (const CheckpointFacts& facts : job.r.checkpoints) {
    if (facts.number == number) return &facts;
  }
  return nullptr;
}

const CheckpointFacts* Cluster::Impl::newest_usable(const Job& job) const {
  const CheckpointFacts* failed = nullptr;
  const CheckpointFacts* damaged = nullptr;
  for (auto it = job.r.checkpoints.rbegin(); it != job.r.checkpoints.rend(); ++it) {
    if (it->quarantined) continue;
    const auto failures = job.internal_failures.find(it->number);
    const bool fails = failures != job.internal_failures.end() &&
                       failures->second >= kInternalFailuresPerCheckpoint;
    if (!it->damaged && !fails) return &*it;
    const CheckpointFacts*& fallback = it->damaged ? damaged : failed;
    if (fallback == nullptr) fallback = &*it;
  }
  // A node may still have a copy of one that is damaged in the store.
  return failed != nullptr ? failed : damaged;
}

void Cluster::Impl::quarantine(Job& job, CheckpointNumber number, const std::string& cause) {
  for (CheckpointFacts& facts : job.r.checkpoints) {
    if (facts.number != number || facts.quarantined) continue;
    facts.quarantined = true;
    out(QuarantineCheckpoint{job.id(), number, cause});
    tell(event::kQuarantined, &job, job.r.current ? job.r.current->node : NodeId{},
         fmt::format("{}: checkpoint {} is quarantined: {}", job.name(), number.value, cause),
         number);
  }
  if (job.move && job.move->pinned == number) job.move->pinned_failed = true;
  refresh_protection(job);
}

void Cluster::Impl::supersede_after(Job& job, CheckpointNumber from) {
  if (planted(Bug::RestoreSuperseded)) return;
  for (std::size_t i = 0; i < job.r.checkpoints.size(); ++i) {
    const CheckpointNumber number = job.r.checkpoints[i].number;
    if (number <= from) continue;
    quarantine(job, number,
               from.value != 0
                   ? fmt::format("superseded: the job went on from checkpoint {}", from.value)
                   : std::string("superseded: the job began anew"));
  }
}

}  // namespace baton::core
