// What became of orders and incarnations.
#include <algorithm>

#include "core/impl.h"

namespace baton::core {
namespace {

// After a kill was confirmed: how long the exit report (with the code, and after the last of the
// output) is waited for.
constexpr TimeMs kExitReportMs = 5'000;
constexpr TimeMs kKillAgainMs = 1'000;

}  // namespace

void Cluster::Impl::on(const OrderDone& input) {
  if (input.kind == OrderKind::Stage) return stage_done(input);
  Node* node = find(input.node);
  if (node != nullptr && (input.kind == OrderKind::Kill || input.kind == OrderKind::Release)) {
    if (node->ending.erase({input.job, input.generation}) != 0) look_for_standbys(*node);
  }
  Job* found = find(input.job);
  if (found == nullptr) return;
  Job& job = *found;
  const auto& current = job.r.current;
  const auto& attempt = job.r.attempt;
  const bool of_current =
      current && current->generation == input.generation && current->node == input.node;
  const bool of_attempt =
      attempt && attempt->generation == input.generation && attempt->node == input.node;
  if (!of_current && !of_attempt) return;
  mark(job);
  if (input.failure != FailureKind::None && input.kind != OrderKind::Signal) {
    job.r.last_error = with_kind(input.failure, input.error);
    job.r.last_error_log = input.log_tail;
    save(job);
  }
  switch (input.kind) {
    case OrderKind::Start:
    case OrderKind::Restore:
      if (of_attempt) launch_done(job, input);
      break;
    case OrderKind::Kill: kill_done(job, input, of_current); break;
    case OrderKind::Freeze:
      if (of_current) freeze_done(job, input);
      break;
    case OrderKind::Release:
      if (of_current) resume_done(job, input);
      break;
    case OrderKind::Checkpoint:
      if (of_current) checkpoint_done(job, input);
      break;
    case OrderKind::Signal:
      if (of_current && input.failure != FailureKind::None && !job.r.desired_stop) {
        tell(event::kUser, &job, input.node,
             fmt::format("{}: the signal did not reach it: {}", job.name(),
                         with_kind(input.failure, input.error)));
      }
      break;
    case OrderKind::Stage: break;
  }
}

void Cluster::Impl::launch_done(Job& job, const OrderDone& done) {
  if (done.failure == FailureKind::None) {
    // While it is being ended, only its end counts: whoever held still for it may go on after that.
    if (!job.end_attempt) promote(job, &done);
    return;
  }
  attempt_failed(job, done.failure, with_kind(done.failure, done.error));
}

void Cluster::Impl::kill_done(Job& job, const OrderDone& done, bool of_current) {
  if (done.failure != FailureKind::None) {
    job.kill_again_at = now_ + kKillAgainMs;
    return;
  }
  if (!of_current) return attempt_gone(job, job.end_why);
  if (job.r.desired_stop) {
    job.finish_at = now_ + kExitReportMs;
    return;
  }
  current_gone(job, job.end_cause, job.end_why, now_, now_);
}

void Cluster::Impl::freeze_done(Job& job, const OrderDone& done) {
  if (job.asked != Job::Asked::Freeze) return;  // given up; a heartbeat will say held
  job.asked = Job::Asked::Nothing;
  if (done.failure == FailureKind::None) {
    job.r.current->state = IncarnationState::Held;
    save(job);
    if (!job.move) return;
    Move& move = *job.move;
    move.deadline.reset();
    move.held_at = now_;
    move.down_since = now_ - static_cast<TimeMs>(done.frozen_for_ms);
    const bool known = checkpoint(job, done.checkpoint) != nullptr;
    if (!known && move.failure.empty()) {
      move.failure = fmt::format("its checkpoint {} never arrived", done.checkpoint.value);
    }
    if (move.pinned.value == 0) move.frozen_checkpoint = done.checkpoint;
    tell(event::kFrozen, &job, done.node,
         fmt::format("{}: stands frozen on {}; checkpoint {} is safe", job.name(), done.node,
                     done.checkpoint.value),
         done.checkpoint);
    return;
  }
  const std::string error = with_kind(done.failure, done.error);
  if (done.failure == FailureKind::Refused) set_unprotected(job, error, false);
  if (done.failure == FailureKind::BrokenIncarnation) {
    return current_gone(job, Cause::Accident,
                        fmt::format("freezing it on {} broke it: {}", done.node, error), now_,
                        now_);
  }
  if (job.move && job.move->failure.empty()) {
    job.move->failure = fmt::format("it could not be frozen on {}: {}", done.node, error);
  }
}

void Cluster::Impl::resume_done(Job& job, const OrderDone& done) {
  if (job.asked != Job::Asked::Resume) return;
  job.asked = Job::Asked::Nothing;
  job.stray_held = false;
  if (done.failure == FailureKind::None) {
    job.r.output_floor = UINT64_MAX;
    return save(job);
  }
  const std::string why = fmt::format("it could not be resumed on {}: {}", done.node,
                                      with_kind(done.failure, done.error));
  if (done.failure == FailureKind::BrokenIncarnation) {
    return current_gone(job, Cause::Accident, why, now_, now_);
  }
  job.end_current = true;
  job.end_cause = Cause::Accident;
  job.end_why = why;
}

void Cluster::Impl::on(const IncarnationExited& input) {
  Job* found = find(input.job);
  if (found == nullptr) return;
  Job& job = *found;
  mark(job);
  if (job.r.attempt && job.r.attempt->generation == input.generation) {
    const NodeId node = job.r.attempt->node;
    switch (input.cause) {
      case ExitCause::Exited:  // so it ran, and its answer was overtaken
        promote(job, nullptr);
        own_exit(job, input.code);
        return;
      case ExitCause::Killed:
        if (job.end_attempt) return attempt_gone(job, job.end_why);
        [[fallthrough]];
      case ExitCause::Fenced:
      case ExitCause::Lost:
        return attempt_failed(
            job, FailureKind::Internal,
            fmt::format("it ended on {} before it ran ({}{}{})", node, to_string(input.cause),
                        input.detail.empty() ? "" : ": ", input.detail));
    }
  }
  if (!job.r.current) return;
  if (job.r.current->generation != input.generation && !planted(Bug::AcceptStaleGeneration)) return;
  const NodeId node = job.r.current->node;
  const bool held = job.r.current->state == IncarnationState::Held;
  // A held one lives on in its checkpoint; what ended its frozen processes was not itself.
  if (input.cause == ExitCause::Exited && !held) return own_exit(job, input.code);
  if (job.r.desired_stop) {
    clear_current(job);
    job.finish_at.reset();
    job.r.exit_code = input.code;
    return;  // drive_stop() ends it once no attempt is left either
  }
  const Node* home = find(node);
  const TimeMs last_sign = home != nullptr ? home->last_heard : now_;
  const std::string detail = input.detail.empty() ? "" : " (" + input.detail + ")";
  switch (input.cause) {
    case ExitCause::Fenced:
      return current_gone(job, Cause::NodeLost,
                          fmt::format("{} ended it because its lease ran out{}", node, detail),
                          last_sign, now_);
    case ExitCause::Killed:
      return current_gone(
          job, job.end_current ? job.end_cause : Cause::Accident,
          job.end_current ? job.end_why : fmt::format("it was killed on {}{}", node, detail), now_,
          now_);
    case ExitCause::Lost:
    case ExitCause::Exited:
      return current_gone(job, Cause::Accident,
                          fmt::format("its sandbox vanished on {}{}", node, detail), now_, now_);
  }
}

void Cluster::Impl::own_exit(Job& job, int code) {
  const NodeId node = job.r.current->node;
  clear_current(job);
  if (job.move)
    finish_move(job, false, fmt::format("the job ended by itself (exit code {})", code));
  const bool by_user = job.user_signal != 0 && code == 128 + job.user_signal;
  if (job.r.desired_stop || by_user) {
    return end(job, JobState::Stopped, code, "stopped by the user");
  }
  if (code == 0 || job.r.restart == RestartPolicy::Never) {
    return end(job, JobState::Exited, code, "");
  }
  const std::uint32_t limit =
      job.r.restart_limit != 0 ? job.r.restart_limit : config_.default_restart_limit;
  if (job.r.restarts >= limit) {
    return end(job, JobState::Exited, code, fmt::format("restarted {} times, the limit", limit));
  }
  ++job.r.restarts;
  const TimeMs wait = backoff_ms(job.r.restarts);
  const std::string why = fmt::format("it exited with code {} on {}", code, node);
  tell(event::kJobRestart, &job, node,
       fmt::format("{}: exited with code {} on {}; restart {} of {} in {} s", job.name(), code,
                   node, job.r.restarts, limit, wait / 1000));
  if (job.r.restart == RestartPolicy::Scratch) supersede_after(job, {});
  begin_recovery(job, Cause::Restart, why, now_, now_);
  job.retry_at = now_ + wait;
}

void Cluster::Impl::clear_current(Job& job) {
  job.last_node = job.r.current->node;
  set_current(job, std::nullopt);
  job.asked = Job::Asked::Nothing;
  job.stray_held = job.end_current = job.term_sent = false;
  job.missing_count = 0;
  job.cpu_cores = -1;
  job.watch = {};
  if (job.checkpoint_asked) {
    finish_checkpoint(job, {}, FailureKind::Internal, "the incarnation ended meanwhile");
  }
  save(job);
  mark(job);
}

void Cluster::Impl::current_gone(Job& job, Cause cause, std::string why, TimeMs last_sign,
                                 TimeMs first_sign) {
  const bool was_held = job.r.current->state == IncarnationState::Held;
  clear_current(job);
  job.finish_at.reset();
  if (job.move && job.move->planned) {
    if (was_held && job.r.attempt && !job.end_attempt && job.move->failure.empty()) {
      job.move->planned = false;  // nothing is left to go back to; the attempt goes on
      return;
    }
    finish_move(job, false, job.move->failure.empty() ? why : job.move->failure);
  }
  if (job.r.desired_stop) return;
  if (cause != Cause::NodeLost) {
    tell(event::kIncarnationLost, &job, job.last_node,
         fmt::format("{}: lost: {}", job.name(), why));
  }
  begin_recovery(job, cause, why, last_sign, first_sign);
}

void Cluster::Impl::attempt_failed(Job& job, FailureKind kind, const std::string& error) {
  const AttemptRecord attempt = *job.r.attempt;
  const bool planned = job.move && job.move->planned;
  attempt_gone(job, fmt::format("{} could not {} it: {}", attempt.node,
                                attempt.from.value != 0 ? "restore" : "start", error));
  job.r.last_error = error;
  if (kind == FailureKind::Invalid && attempt.from.value == 0) {
    if (job.r.desired_stop || job.r.current) return;
    return end(job, JobState::Failed, std::nullopt, error);
  }
  if (kind == FailureKind::DamagedCheckpoint) quarantine(job, attempt.from, error);
  const bool unfit = kind == FailureKind::UnfitNode || kind == FailureKind::NoSpace;
  if (unfit || kind == FailureKind::Internal) job.excluded[attempt.node] = "failed: " + error;
  if (planned) {
    // Another node may do better while the source waits, unless the user named this one.
    if (unfit && job.move->only.value.empty() && !job.end_attempt) job.move->failure.clear();
    return;
  }
  ++job.r.failed_attempts;
  if (kind != FailureKind::DamagedCheckpoint && !unfit && attempt.from.value != 0) {
    ++job.internal_failures[attempt.from];
  }
  tell(
      event::kRestoreFailed, &job, attempt.node,
      fmt::format("{}: attempt {} of {} failed: {} could not {}: {}", job.name(),
                  job.r.failed_attempts, config_.restore_attempts, attempt.node,
                  attempt.from.value != 0 ? fmt::format("restore checkpoint {}", attempt.from.value)
                                          : std::string("start it"),
                  error),
      attempt.from);
}

void Cluster::Impl::attempt_gone(Job& job, std::string why) {
  set_attempt(job, std::nullopt);
  job.end_attempt = false;
  job.attempt_running_count = 0;
  if (job.move) {
    job.move->deadline.reset();
    job.move->to = {};
    if (job.move->planned && job.move->failure.empty()) job.move->failure = why;
  }
  save(job);
  mark(job);
}

void Cluster::Impl::promote(Job& job, const OrderDone* done) {
  const AttemptRecord attempt = *job.r.attempt;
  const auto old = job.r.current;
  if (job.r.current) clear_current(job);
  set_attempt(job, std::nullopt);
  job.staged.erase(attempt.node);  // it is the job's own now
  if (job.standby == attempt.node) job.standby = {};
  set_current(job, IncarnationRecord{attempt.node, attempt.generation, IncarnationState::Running});
  job.end_attempt = false;
  job.attempt_running_count = 0;
  job.r.failed_attempts = 0;
  job.r.output_floor = UINT64_MAX;
  job.r.exit_code.reset();
  job.excluded.clear();
  job.internal_failures.clear();
  job.retry_at = 0;
  job.waiting = job.stuck_told = false;
  job.arrived_at = now_;
  save(job);
  mark(job);
  if (old) {
    Node* source = find(old->node);
    if (source != nullptr && source->reachable() &&
        source->ending.insert({job.id(), old->generation}).second) {
      out(ReleaseIncarnation{old->node, job.id(), old->generation, true});
    }
  }
  supersede_after(job, attempt.from);
  if (!job.move) {
    job.ever_ran = true;
    tell(event::kJobStarted, &job, attempt.node,
         fmt::format("{}: started on {}", job.name(), attempt.node));
    return;
  }
  job.ever_ran = true;
  Move& move = *job.move;
  move.to = attempt.node;
  move.restored = attempt.from;
  if (done != nullptr) {
    move.transfer_ms += done->fetch_ms;
    move.restore_ms = job.restore_ms = done->restore_ms;
  }
  if (move.held_at != 0)
    move.transfer_ms += static_cast<double>(move.held_at - move.freeze_sent_at);
  if (move.down_since) {
    const double running_for = done != nullptr ? done->running_for_ms : 0;
    move.downtime_ms = std::max(0.0, static_cast<double>(now_ - *move.down_since) - running_for);
  }
  finish_move(job, true, "");
}

}  // namespace baton::core
