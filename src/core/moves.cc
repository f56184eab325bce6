// The next step of a job: start, move, recover, stop, end.
#include <algorithm>
#include <cassert>

#include "core/impl.h"

namespace baton::core {
namespace {

constexpr TimeMs kMoveAgainMs = 5'000;
constexpr TimeMs kMoveAgainMaxMs = 60'000;
constexpr int kKilledExitCode = 128 + 9;

std::string source_name(CheckpointNumber from) {
  return from.value != 0 ? fmt::format("checkpoint {}", from.value) : "the beginning";
}

}  // namespace

void Cluster::Impl::drive(Job& job) {
  if (has_ended(job.r.state)) return;
  if (job.r.desired_stop) {
    drive_stop(job);
  } else if (job.move && job.move->planned) {
    drive_planned(job);
  } else if (!job.r.current && !job.r.attempt) {
    drive_start(job);
  } else if (job.r.current && !job.end_current &&
             (job.stray_held || job.r.current->state == IncarnationState::Held)) {
    send_resume(job);  // held, and nobody wants that any more
  }
  if (has_ended(job.r.state)) return;
  if (job.r.attempt && !job.end_attempt && job.move && job.move->deadline &&
      *job.move->deadline <= now_) {
    job.end_attempt = true;
    job.end_why = fmt::format("{} did not answer in time", job.r.attempt->node);
    ++job.r.failed_attempts;
  }
  if (job.end_attempt && job.r.attempt) {
    ensure_kill(job, job.r.attempt->node, job.r.attempt->generation);
  }
  if (job.end_current && job.r.current && !job.finish_at) {
    ensure_kill(job, job.r.current->node, job.r.current->generation);
  }
  refresh_state(job);
}

void Cluster::Impl::drive_stop(Job& job) {
  const bool late = job.stop_kill_at && *job.stop_kill_at <= now_;
  if (job.r.attempt && (late || !job.r.current)) {
    job.end_attempt = true;
    job.end_why = "the job is being stopped";
  }
  if (job.r.current && late) job.end_current = true;
  if (job.r.current && job.finish_at) {
    if (*job.finish_at > now_) return;
    job.r.exit_code = kKilledExitCode;
    clear_current(job);
  }
  if (job.move && job.move->planned) {
    if (job.move->failure.empty()) job.move->failure = "the job is being stopped";
    drive_planned(job);
    if (job.move) return;
  }
  if (!job.r.current) {
    if (!job.r.attempt) end(job, JobState::Stopped, job.r.exit_code, "stopped by the user");
    return;
  }
  if (job.end_current || job.asked != Job::Asked::Nothing) return;
  if (job.stray_held || job.r.current->state == IncarnationState::Held) return send_resume(job);
  const Node* node = find(job.r.current->node);
  if (job.term_sent || node == nullptr || !node->reachable()) return;
  job.term_sent = true;
  constexpr int kSigTerm = 15;
  out(SignalIncarnation{job.r.current->node, job.id(), job.r.current->generation, kSigTerm});
}

// Bring what there is to the target, freeze the source, restore at the target, release the source;
// any failure undoes it.
void Cluster::Impl::drive_planned(Job& job) {
  Move& move = *job.move;
  if (job.asked == Job::Asked::Freeze && move.deadline && *move.deadline <= now_) {
    job.asked = Job::Asked::Nothing;  // if it succeeds after all, a heartbeat will say held
    if (move.failure.empty()) move.failure = "freezing it took too long";
  }
  if (move.give_up_at && *move.give_up_at <= now_ && move.failure.empty())
    move.failure = "it was not done in the time it was given";
  const bool held = job.r.current && (job.r.current->state == IncarnationState::Held ||
                                      planted(Bug::LaunchBesideSource));
  if (!move.failure.empty()) {
    if (job.r.attempt && !planted(Bug::ResumeDespiteAttempt)) {
      if (!job.end_attempt) job.end_why = move.failure;
      job.end_attempt = true;
      return;
    }
    if (held && !job.end_current) send_resume(job);
    if (job.asked == Job::Asked::Nothing && (!held || job.end_current)) {
      finish_move(job, false, move.failure);
    }
    return;
  }
  if (job.r.attempt || job.end_current || job.asked != Job::Asked::Nothing) return;
  if (job.stray_held) return send_resume(job);
  if (!held) {
    // It has not come back to this controller yet: it will, or be lost.
    if (!find(job.r.current->node)->reachable()) return;
    if (move.freeze_sent) {
      move.failure = fmt::format("{} could not be asked to freeze it", job.r.current->node);
      return drive_planned(job);
    }
    if (!move.decide_ms) {
      move.decide_ms = static_cast<double>(now_ - move.fired_at);
      move.decided_at = now_;
    }
    if (!finish_rounds(job)) return;
    if (const double expected = expected_downtime_ms(job);
        move.max_downtime_ms != 0 && expected > move.max_downtime_ms) {
      move.failure = fmt::format("it would stand still for about {:.0f} ms, more than {} ms",
                                 expected, move.max_downtime_ms);
      return drive_planned(job);
    }
    move.freeze_sent = true;
    move.freeze_sent_at = now_;
    move.stage_ms = static_cast<double>(now_ - move.decided_at);
    move.deadline = now_ + config_.freeze_timeout_ms;
    job.asked = Job::Asked::Freeze;
    out(FreezeIncarnation{job.r.current->node, job.id(), job.r.current->generation});
    return;
  }
  const double down_ms = static_cast<double>(now_ - move.down_since.value_or(now_));
  if (move.max_downtime_ms != 0 && down_ms + job.restore_ms > move.max_downtime_ms) {
    move.failure = fmt::format("it stood still for {:.0f} ms already, of {} ms at most", down_ms,
                               move.max_downtime_ms);
    return drive_planned(job);
  }
  // The target chosen at the start may have changed meanwhile; the checkpoint is known only now.
  CheckpointNumber number = move.pinned.value != 0 ? move.pinned : move.frozen_checkpoint;
  if (planted(Bug::LaunchBesideSource) && !job.r.checkpoints.empty())
    number = job.r.checkpoints.back().number;
  const CheckpointFacts* from = checkpoint(job, number);
  if (from == nullptr) {
    move.failure = fmt::format("checkpoint {} is gone", number.value);
    return drive_planned(job);
  }
  const bool relief = move.cause == Cause::CpuOverload || move.cause == Cause::MemoryPressure;
  const Urgency urgency = relief                             ? Urgency::Relief
                          : move.cause == Cause::AboutToFail ? Urgency::Rescue
                                                             : Urgency::Normal;
  PlacementRequest request = wish(job, move.only.value.empty() ? urgency : Urgency::Named,
                                  move.only.value.empty() ? move.to : move.only, from);
  if (move.pinned.value == 0) request.excluded[move.from] = "is its source";
  Placement placement = place_job(request);
  if (!placement.node && move.only.value.empty()) {
    request.only = {};
    placement = place_job(request);
  }
  if (placement.node && launch(job, *placement.node, number)) return;
  move.failure = placement.why_none();
  drive_planned(job);
}

bool Cluster::Impl::launch(Job& job, const NodeId& node, CheckpointNumber from) {
  const bool certainly_not_running = planted(Bug::LaunchBesideSource) || !job.r.current ||
                                     (job.r.current->state == IncarnationState::Held &&
                                      job.asked == Job::Asked::Nothing && !job.stray_held);
  if (!certainly_not_running || job.r.attempt || !find(node)->reachable()) {
    assert(false && "an attempt while another incarnation may run");
    return false;
  }
  const Generation generation = job.r.next_generation;
  if (!planted(Bug::ReuseGeneration)) job.r.next_generation.value += 1;
  const Cause cause = job.move ? job.move->cause : Cause::User;
  set_attempt(job, AttemptRecord{node, generation, from, cause});
  job.r.output_generation = generation;
  job.end_attempt = false;
  job.attempt_running_count = 0;
  job.waiting = false;
  job.r.reason.clear();
  const CheckpointFacts* facts = checkpoint(job, from);
  // A quarantined one, asked for by name, may come from another past than the log's. Cutting too
  // much is always right: the whole output travels with the checkpoint and is sent again.
  const bool same_past = facts != nullptr && !facts->quarantined;
  job.r.output_floor = std::min(job.r.output_floor, same_past ? facts->output_bytes : 0);
  if (!planted(Bug::KeepLostOutput)) out(RollBackOutput{job.id(), generation, job.r.output_floor});
  if (!planted(Bug::ForgetAttempt)) save(job);
  if (job.move) {
    Move& move = *job.move;
    move.to = node;
    move.deadline = now_ + config_.restore_timeout_ms;
    if (!move.decide_ms) move.decide_ms = static_cast<double>(now_ - move.fired_at);
    if (!move.planned) {
      tell(event::kDecide, &job, node,
           fmt::format("{}: recovering on {} from {} because {}", job.name(), node,
                       source_name(from), move.why),
           from);
    }
  }
  send_attempt(job);
  return true;
}

void Cluster::Impl::send_attempt(Job& job) {
  const AttemptRecord& attempt = *job.r.attempt;
  if (attempt.from.value == 0) {
    out(StartIncarnation{attempt.node, job.id(), attempt.generation});
  } else {
    out(RestoreIncarnation{attempt.node, job.id(), attempt.generation, attempt.from});
  }
}

void Cluster::Impl::send_resume(Job& job) {
  const IncarnationRecord& current = *job.r.current;
  if (job.asked != Job::Asked::Nothing || !find(current.node)->reachable()) return;
  // From here on it may be running: on record before the order leaves.
  job.r.current->state = IncarnationState::Running;
  job.asked = Job::Asked::Resume;
  job.r.output_generation = current.generation;
  // It stands where its last checkpoint was taken; what an attempt printed never happened. Said
  // even if no attempt is known: the one before a restart may have been cut short. The source has
  // all of its output and sends again what is missing.
  const auto& all = job.r.checkpoints;
  const std::uint64_t bytes = all.empty() ? 0 : all.back().output_bytes;
  out(RollBackOutput{job.id(), current.generation, std::min(bytes, job.r.output_floor)});
  save(job);
  out(ReleaseIncarnation{current.node, job.id(), current.generation, false});
}

void Cluster::Impl::ensure_kill(Job& job, const NodeId& id, Generation generation) {
  Node* node = find(id);
  if (node == nullptr || !node->reachable() || job.kill_again_at > now_) return;
  if (!node->ending.insert({job.id(), generation}).second) return;
  out(KillIncarnation{id, job.id(), generation});
}

void Cluster::Impl::finish_move(Job& job, bool ok, std::string error) {
  Move move = std::move(*job.move);
  job.move.reset();
  job.excluded.clear();
  MoveTiming timing{.cause = move.cause,
                    .from = move.from,
                    .to = move.to,
                    .detect_ms = move.detect_ms,
                    .decide_ms = move.decide_ms.value_or(0),
                    .stage_ms = move.stage_ms,
                    .transfer_ms = move.transfer_ms,
                    .restore_ms = move.restore_ms,
                    .downtime_ms = move.downtime_ms,
                    .checkpoint = move.restored,
                    .ok = ok,
                    .error = error};
  std::string text;
  if (ok) {
    job.move_failures = 0;
    const bool relief = move.cause == Cause::CpuOverload || move.cause == Cause::MemoryPressure;
    if (relief || move.cause == Cause::Drain || move.cause == Cause::AboutToFail) {
      job.policy_moved_at = now_;
    }
    if (relief) {
      job.fled_node = move.from;
      job.fled_at = now_;
    }
    if (Node* from = find(move.from); relief && from != nullptr) {
      from->settle_until = now_ + config_.policy.cpu_for_ms;
    }
    text = fmt::format("{}: runs on {} again after {:.0f} ms ({}{}, from {})", job.name(), move.to,
                       move.downtime_ms, to_string(move.cause),
                       move.from.value.empty() ? "" : ", before on " + move.from.value,
                       source_name(move.restored));
  } else {
    job.move_failures = std::min(job.move_failures + 1, 16u);
    job.move_again_at =
        now_ + std::min(kMoveAgainMaxMs, kMoveAgainMs << std::min(job.move_failures - 1, 4u));
    job.r.last_error = error;
    const std::string what =
        move.planned ? fmt::format("the move from {}", move.from) : "the recovery";
    text = fmt::format("{}: {} ({}) failed: {}{}", job.name(), what, to_string(move.cause), error,
                       job.r.current ? fmt::format("; it runs on {}", job.r.current->node) : "");
  }
  out(EmitEvent{ok ? event::kMove : event::kMoveFailed, job.id(), ok ? move.to : move.from,
                std::move(text), timing, move.restored});
  if (planted(Bug::ForgetRequest)) move.requests.clear();
  out(MoveFinished{job.id(), std::move(timing), std::move(move.requests)});
  save(job);
  mark(job);
}

void Cluster::Impl::end(Job& job, JobState state, std::optional<int> code, std::string reason) {
  assert(!job.r.current && !job.r.attempt);
  unstage_all(job);
  if (job.move) finish_move(job, false, reason.empty() ? "the job ended" : reason);
  job.r.state = state;
  job.r.reason = reason;
  job.r.exit_code = code;
  job.r.desired_stop = false;
  job.stop_kill_at.reset();
  job.finish_at.reset();
  job.retry_at = job.kill_again_at = 0;
  job.waiting = false;
  save(job);
  const NodeId node = job.last_node;
  if (state == JobState::Exited) {
    tell(event::kJobExited, &job, node,
         fmt::format("{}: exited with code {}{}", job.name(), code.value_or(0),
                     reason.empty() ? "" : " (" + reason + ")"));
  } else if (state == JobState::Stopped) {
    tell(event::kJobStopped, &job, node,
         fmt::format("{}: {}{}", job.name(), reason,
                     code ? fmt::format(" (exit code {})", *code) : std::string()));
  } else {
    tell(event::kJobFailed, &job, node, fmt::format("{}: failed: {}", job.name(), reason));
  }
  if (job.r.remove_when_ended) forget(job);
}

void Cluster::Impl::forget(Job& job) {
  const JobId id = job.id();
  tell(event::kJobRemoved, &job, {}, fmt::format("{}: removed", job.name()));
  out(ForgetJob{id});
  forgotten_.insert(id);
}

void Cluster::Impl::refresh_state(Job& job) {
  JobState state = JobState::Pending;
  if (job.r.desired_stop) {
    state = JobState::Stopping;
  } else if (job.r.current) {
    state = job.move && job.move->planned ? JobState::Migrating : JobState::Running;
  } else if (job.move) {
    state = JobState::Recovering;
  } else if (job.r.attempt) {
    state = JobState::Starting;
  }
  if (state == job.r.state) return;
  job.r.state = state;
  save(job);
}

PlacementRequest Cluster::Impl::wish(const Job& job, Urgency urgency, const NodeId& only,
                                     const CheckpointFacts* from) const {
  PlacementRequest request;
  request.needs = job.r.needs;
  request.urgency = urgency;
  request.only = only;
  request.excluded = job.excluded;
  request.policy = job.r.policy;
  const Node* source = job.r.current ? find(job.r.current->node) : nullptr;
  if (from != nullptr) {
    request.restoring = true;
    request.criu_version = from->criu_version;
    request.cpu_features = from->cpu_features;
  } else if (source != nullptr) {
    // It will be dumped by this node's CRIU, on this node's CPU.
    request.restoring = true;
    request.criu_version = source->record.facts.criu_version;
    request.cpu_features = source->record.facts.cpu_features;
  }
  // What it uses, if it was measured; else at most what it may use and can have used; else unknown.
  if (job.cpu_cores >= 0) {
    request.share_cores = job.cpu_cores;
  } else if (source != nullptr && job.r.needs.cpus > 0) {
    request.share_cores =
        std::min(job.r.needs.cpus, source->sample.cpu_utilization * source->record.facts.cpus);
  }
  return request;
}

}  // namespace baton::core
