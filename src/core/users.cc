// What users ask for. Every input here gets exactly one Reply; an error has changed nothing.
#include "core/impl.h"

namespace baton::core {
namespace {

constexpr int kSigKill = 9;

std::string name_or_number(const Job& job) {
  return job.name().empty() ? fmt::format("job {}", job.id().value) : job.name();
}

std::unexpected<Error> unknown_job(JobId id) {
  return fail(ErrorCode::NotFound, fmt::format("no job {}", id.value));
}

std::unexpected<Error> unknown_node(const NodeId& id) {
  return fail(ErrorCode::NotFound, fmt::format("there is no node \"{}\"", id));
}

std::unexpected<Error> wrong_state(const Job& job, std::string_view why) {
  return fail(ErrorCode::FailedPrecondition, fmt::format("{} {}", name_or_number(job), why));
}

}  // namespace

Status Cluster::Impl::check_new(const JobRecord& wanted) const {
  if (jobs_.contains(wanted.id)) {
    return fail(ErrorCode::AlreadyExists, fmt::format("job {} exists already", wanted.id.value));
  }
  if (const auto found = names_.find(wanted.name); found != names_.end()) {
    return fail(ErrorCode::AlreadyExists,
                fmt::format("a job named {} exists already ({})", wanted.name,
                            to_string(jobs_.at(found->second).r.state)));
  }
  return {};
}

void Cluster::Impl::on(const ImportJob& input) {
  if (Status status = check_new(input.job); !status) return reply(input.request, status);
  Job job;
  job.r = input.job;
  job.r.state = JobState::Stopped;
  job.r.reason = "imported; baton restore starts it from its checkpoint";
  job.r.is_protected = newest_usable(job) != nullptr;
  job.ever_ran = true;
  job.arrived_at = now_;
  Job& kept = add(std::move(job));
  save(kept);
  tell(event::kJobImported, &kept, {}, fmt::format("{}: imported", kept.name()));
  reply(input.request, {});
}

void Cluster::Impl::on(const SubmitJob& input) {
  const JobRecord& wanted = input.job;
  if (Status status = check_new(wanted); !status) return reply(input.request, status);
  Job job;
  job.r = wanted;
  job.r.state = JobState::Pending;
  job.arrived_at = now_;
  if (const NodeId& only = wanted.needs.wanted_node; !only.value.empty()) {
    if (find(only) == nullptr) {
      return reply(input.request,
                   fail(ErrorCode::InvalidArgument, unknown_node(only).error().message()));
    }
    const Placement placement = place_job(wish(job, Urgency::Named, only, nullptr));
    if (!placement.node) {
      return reply(input.request, fail(ErrorCode::FailedPrecondition, placement.why_none()));
    }
  }
  Job& kept = add(std::move(job));
  save(kept);
  mark(kept);
  tell(event::kJobSubmitted, &kept, wanted.needs.wanted_node,
       fmt::format("{}: submitted", kept.name()));
  reply(input.request, {});
}

Result<PlacementRequest> Cluster::Impl::migration(JobId id, const NodeId& to) {
  const Job* job = find(id);
  if (job == nullptr) return unknown_job(id);
  if (has_ended(job->r.state)) return wrong_state(*job, "has ended");
  if (job->r.desired_stop) return wrong_state(*job, "is being stopped");
  if (job->move) return wrong_state(*job, "is being moved already");
  if (!job->r.current || job->end_current) return wrong_state(*job, "is not running yet");
  const NodeId from = job->r.current->node;
  if (!to.value.empty() && find(to) == nullptr) return unknown_node(to);
  if (to == from)
    return fail(ErrorCode::InvalidArgument,
                fmt::format("{} runs on {} already", job->name(), from));
  PlacementRequest request =
      wish(*job, to.value.empty() ? Urgency::Normal : Urgency::Named, to, nullptr);
  request.excluded[from] = "is where it runs";
  request.preferred = job->standby;
  return request;
}

void Cluster::Impl::on(const UserMigrate& input) {
  const auto request = migration(input.job, input.to);
  if (!request) return reply(input.request, fail(request.error()));
  const Placement placement = place_job(*request);
  if (!placement.node) {
    return reply(input.request, fail(ErrorCode::FailedPrecondition, placement.why_none()));
  }
  reply(input.request, {});
  Move move{.cause = Cause::User, .to = *placement.node, .only = input.to, .fired_at = now_};
  if (input.request != 0) move.requests.push_back(input.request);
  if (input.limits.deadline_ms != 0) move.give_up_at = now_ + input.limits.deadline_ms;
  move.max_downtime_ms = input.limits.max_downtime_ms;
  start_move(*find(input.job), std::move(move), "a user asked for it");
}

void Cluster::Impl::on(const UserRestore& input) {
  Job* job = find(input.job);
  if (job == nullptr) return reply(input.request, unknown_job(input.job));
  if (job->r.desired_stop) return reply(input.request, wrong_state(*job, "is being stopped"));
  if (job->move) return reply(input.request, wrong_state(*job, "is being moved already"));
  const bool ended = has_ended(job->r.state);
  if (!ended && (!job->r.current || job->end_current)) {
    return reply(input.request, wrong_state(*job, "is not running yet"));
  }
  const CheckpointFacts* from =
      input.checkpoint.value != 0 ? checkpoint(*job, input.checkpoint) : newest_usable(*job);
  if (from == nullptr) {
    return reply(
        input.request,
        fail(input.checkpoint.value != 0 ? ErrorCode::NotFound : ErrorCode::FailedPrecondition,
             input.checkpoint.value != 0
                 ? fmt::format("{} has no checkpoint {}", job->name(), input.checkpoint.value)
                 : fmt::format("{} has no checkpoint that could be restored", job->name())));
  }
  if (!input.to.value.empty() && find(input.to) == nullptr) {
    return reply(input.request, unknown_node(input.to));
  }
  NodeId to = input.to;
  PlacementRequest request = wish(*job, Urgency::Named, to, from);
  if (to.value.empty() && !ended) request.only = job->r.current->node;  // where it is, if that fits
  Placement placement = place_job(request);
  if (!placement.node && to.value.empty()) {
    request.only = {};
    request.urgency = Urgency::Rescue;
    placement = place_job(request);
  }
  if (!placement.node) {
    return reply(input.request, fail(ErrorCode::FailedPrecondition, placement.why_none()));
  }
  reply(input.request, {});
  Move move{.cause = Cause::User, .to = *placement.node, .only = to, .fired_at = now_};
  if (input.request != 0) move.requests.push_back(input.request);
  // With a number that one and no other; without, an ended job takes the newest that works.
  if (!ended || input.checkpoint.value != 0) move.pinned = from->number;
  const std::string because = fmt::format("a user asked for its checkpoint {}", from->number.value);
  if (!ended) return start_move(*job, std::move(move), because);
  move.from = job->last_node;
  move.why = because;
  job->move = std::move(move);
  job->r.failed_attempts = job->quick_deaths = 0;
  job->user_signal = 0;
  job->ever_ran = true;
  job->excluded.clear();
  job->internal_failures.clear();
  job->retry_at = 0;
  job->stuck_told = false;
  job->r.state = JobState::Recovering;
  save(*job);
  mark(*job);
}

void Cluster::Impl::on(const UserCheckpoint& input) {
  Job* job = find(input.job);
  if (job == nullptr) return reply(input.request, unknown_job(input.job));
  if (has_ended(job->r.state)) return reply(input.request, wrong_state(*job, "has ended"));
  if (job->r.desired_stop) return reply(input.request, wrong_state(*job, "is being stopped"));
  if (job->move) return reply(input.request, wrong_state(*job, "is being moved"));
  const Node* node = job->r.current ? find(job->r.current->node) : nullptr;
  if (node == nullptr || job->end_current || job->asked != Job::Asked::Nothing) {
    return reply(input.request, wrong_state(*job, "is not running yet"));
  }
  if (!node->reachable()) {
    return reply(input.request, fail(ErrorCode::Unavailable,
                                     fmt::format("{} has not been heard from yet", node->id())));
  }
  reply(input.request, {});
  if (input.request != 0) job->checkpoint_requests.push_back(input.request);
  if (job->checkpoint_asked) return;
  job->checkpoint_asked = true;
  out(TakeCheckpoint{node->id(), job->id(), job->r.current->generation});
}

void Cluster::Impl::on(const UserStop& input) {
  Job* job = find(input.job);
  if (job == nullptr) return reply(input.request, unknown_job(input.job));
  if (has_ended(job->r.state)) return reply(input.request, wrong_state(*job, "has ended already"));
  reply(input.request, {});
  const TimeMs kill_at = now_ + input.grace_ms;
  // A second stop may shorten the grace, never lengthen it.
  if (!job->stop_kill_at || kill_at < *job->stop_kill_at) job->stop_kill_at = kill_at;
  if (!job->r.desired_stop) {
    tell(event::kUser, job, job->r.current ? job->r.current->node : NodeId{},
         fmt::format("{}: a user stops it", job->name()));
  }
  job->r.desired_stop = true;
  save(*job);
  mark(*job);
}

void Cluster::Impl::on(const UserKill& input) {
  Job* job = find(input.job);
  if (job == nullptr) return reply(input.request, unknown_job(input.job));
  if (has_ended(job->r.state)) return reply(input.request, wrong_state(*job, "has ended already"));
  // The command's death would leave what it started, and a frozen or absent one would not hear it.
  if (input.signal == kSigKill) return on(UserStop{input.request, input.job, 0});
  const bool at_rest = job->r.current && !job->end_current && !job->move &&
                       job->r.current->state == IncarnationState::Running;
  const Node* node = at_rest ? find(job->r.current->node) : nullptr;
  if (node != nullptr && node->reachable()) {
    reply(input.request, {});
    job->user_signal = input.signal;
    out(SignalIncarnation{node->id(), job->id(), job->r.current->generation, input.signal});
    return;
  }
  reply(input.request, wrong_state(*job, "can't take a signal now; it is between two places"));
}

void Cluster::Impl::on(const RemoveJob& input) {
  Job* job = find(input.job);
  if (job == nullptr) return reply(input.request, unknown_job(input.job));
  if (has_ended(job->r.state)) {
    reply(input.request, {});
    return forget(*job);
  }
  if (!input.force) {
    return reply(input.request,
                 wrong_state(*job, fmt::format("is {}; stop it first", to_string(job->r.state))));
  }
  job->r.remove_when_ended = true;
  on(UserStop{input.request, input.job, 0});
}

void Cluster::Impl::on(const DrainNode& input) {
  Node* node = find(input.node);
  if (node == nullptr) return reply(input.request, unknown_node(input.node));
  reply(input.request, {});
  set_drain_end(*node, !input.cancel && input.deadline_ms != 0
                           ? std::optional<TimeMs>(now_ + input.deadline_ms)
                           : std::nullopt);
  if (node->record.draining == !input.cancel) return;
  node->record.draining = !input.cancel;
  node->drained_told = false;
  save(*node);
  tell(event::kNodeDrain, nullptr, node->id(),
       fmt::format("{}: {}", node->id(),
                   input.cancel ? "is no longer drained" : "is being drained"));
  for (JobId id : node->jobs) {
    Job& job = jobs_.at(id);
    if (job.r.current && job.r.current->node == node->id()) job.stuck_told = false;
  }
  look_for_standbys(*node);
  run_policies(*node);
  mark_waiting();
}

void Cluster::Impl::on(const CordonNode& input) {
  Node* node = find(input.node);
  if (node == nullptr) return reply(input.request, unknown_node(input.node));
  reply(input.request, {});
  if (node->record.cordoned) return;
  node->record.cordoned = true;
  save(*node);
  tell(event::kNodeCordon, nullptr, node->id(), fmt::format("{}: takes no more jobs", node->id()));
  look_for_standbys(*node);
}

void Cluster::Impl::on(const UncordonNode& input) {
  Node* node = find(input.node);
  if (node == nullptr) return reply(input.request, unknown_node(input.node));
  reply(input.request, {});
  if (!node->record.cordoned && !node->record.draining) return;
  node->record.cordoned = node->record.draining = false;
  save(*node);
  tell(event::kNodeUncordon, nullptr, node->id(), fmt::format("{}: takes jobs again", node->id()));
  look_for_standbys(*node);
  mark_waiting();
}

}  // namespace baton::core
