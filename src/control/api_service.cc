#include "control/api_service.h"

#include <google/protobuf/util/field_mask_util.h>

#include <climits>
#include <csignal>

#include "base/clock.h"
#include "base/version.h"
#include "control/answer.h"
#include "control/convert.h"
#include "control/validate.h"
#include "wire/status.h"

namespace baton::control {
namespace {

constexpr std::uint32_t kDefaultGraceMs = 10'000;
constexpr std::size_t kEventsAtOnce = 256;
constexpr std::size_t kLogPartBytes = 256 << 10;
constexpr int kHighestSignal = 64;
constexpr int kJobsAtOnce = 50;

ErrorCode error_code(core::FailureKind kind) {
  switch (kind) {
    case core::FailureKind::Refused: return ErrorCode::Refused;
    case core::FailureKind::NoSpace: return ErrorCode::NoSpace;
    case core::FailureKind::UnfitNode: return ErrorCode::Unfit;
    default: return ErrorCode::FailedPrecondition;
  }
}

// To copy a hundred names for each of a thousand nodes and drop them takes longer than all else.
void copy_without_cpu_features(const v1::NodeFacts& facts, v1::NodeFacts& to) {
  using google::protobuf::util::FieldMaskUtil;
  static const google::protobuf::FieldMask others = [] {
    google::protobuf::FieldMask features, rest;
    features.add_paths("cpu_features");
    FieldMaskUtil::Subtract<v1::NodeFacts>(FieldMaskUtil::GetFieldMaskForAllFields<v1::NodeFacts>(),
                                           features, &rest);
    return rest;
  }();
  to.Clear();
  FieldMaskUtil::MergeMessageTo(facts, others, {}, &to);
}

}  // namespace

template <typename Body>
grpc::ServerUnaryReactor* ApiService::answer(Call* call, Body body) {
  return control::answer(context_.calls, context_.access.who(*call), std::move(body));
}

Result<JobId> ApiService::find_job(const v1::JobRef& ref) {
  return context_.loop.with_lock(
      [&](Loop::Locked& l) { return l.state.find_job(ref.name_or_id()); });
}

Result<JobId> ApiService::own_job(Call* call, const v1::JobRef& ref) {
  return context_.access.own_job(*call, context_.loop, ref);
}

Status ApiService::get_job(Call* call, JobId id, v1::Job& job) {
  BATON_TRY(const Caller caller, context_.access.caller(*call));
  job = context_.loop.with_lock([&](Loop::Locked& l) { return l.state.job_view(id); });
  if (job.id() == 0) return fail(ErrorCode::NotFound, fmt::format("there is no job {}", id));
  complete(caller, job);
  return {};
}

// What the loop's lock is not needed for.
void ApiService::complete(const Caller& caller, v1::Job& job) {
  if (auto log = context_.loop.stores().logs.get(JobId(job.id()))) {
    job.set_output_bytes((*log)->length());
    job.set_output_safe_bytes((*log)->safe_length());
  }
  hide_secrets(caller, *job.mutable_spec());
}

Status ApiService::ask(const core::Input& input, std::stop_token stop) {
  BATON_CHECK(context_.loop.check_room());
  auto applied = context_.loop.with_lock([&](Loop::Locked& l) { return l.apply(input); });
  BATON_CHECK(applied.reply);
  return context_.loop.wait_saved(applied.ticket, stop);
}

grpc::ServerUnaryReactor* ApiService::Version(Call* call, const v1::Empty*,
                                              v1::VersionReply* reply) {
  return answer(call, [this, reply](std::stop_token) -> Status {
    reply->set_version(kVersion);
    reply->set_started_wall_ms(context_.started_wall_ms);
    reply->set_lease_ms(context_.lease_ms);
    *reply->mutable_policy() = context_.policy;
    return {};
  });
}

grpc::ServerUnaryReactor* ApiService::Run(Call* call, const v1::RunRequest* request,
                                          v1::Job* reply) {
  return answer(call, [this, call, request, reply](std::stop_token stop) -> Status {
    BATON_TRY(JobId id, submit(call, request->spec(), stop));
    return get_job(call, id, *reply);
  });
}

Status ApiService::list_jobs(Call* call, const v1::ListJobsRequest& request,
                             v1::ListJobsReply& reply) {
  BATON_TRY(const Caller caller, context_.access.caller(*call));
  const auto limit = request.limit() ? static_cast<int>(request.limit()) : INT_MAX;
  JobId last(request.after());
  // Some at a time: heartbeats wait for the same lock.
  auto add_some = [&](Loop::Locked& l) {
    for (int looked_at = 0; looked_at < kJobsAtOnce; ++looked_at) {
      const core::JobRecord* record = l.state.core.next_job(last);
      if (!record) return false;
      last = record->id;
      if (!request.all() && core::has_ended(record->state)) continue;
      if (reply.jobs_size() == limit) {
        reply.set_more(true);
        return false;
      }
      *reply.add_jobs() = l.state.job_view(last);
    }
    return true;
  };
  while (context_.loop.with_lock(add_some)) {
  }
  for (auto& job : *reply.mutable_jobs()) complete(caller, job);
  return {};
}

grpc::ServerUnaryReactor* ApiService::ListJobs(Call* call, const v1::ListJobsRequest* request,
                                               v1::ListJobsReply* reply) {
  return answer(call, [this, call, request, reply](std::stop_token) {
    return list_jobs(call, *request, *reply);
  });
}

grpc::ServerUnaryReactor* ApiService::GetJob(Call* call, const v1::JobRef* request,
                                             v1::Job* reply) {
  return answer(call, [this, call, request, reply](std::stop_token) -> Status {
    BATON_TRY(JobId id, find_job(*request));
    return get_job(call, id, *reply);
  });
}

Status ApiService::wait_ended(Call* call, JobId id, std::optional<core::TimeMs> deadline,
                              std::stop_token stop, v1::Job& job) {
  bool gone = false;
  bool ended = context_.loop.wait(stop, deadline, [&](Loop::Locked& l) {
    const core::JobRecord* record = l.state.core.find_job(id);
    gone = !record;
    return gone || core::has_ended(record->state);
  });
  if (gone) return fail(ErrorCode::NotFound, fmt::format("job {} was removed", id));
  if (ended) return get_job(call, id, job);
  if (stop.stop_requested()) return fail(ErrorCode::Cancelled, "cancelled");
  return fail(ErrorCode::TimedOut, fmt::format("job {} has not ended", id));
}

grpc::ServerUnaryReactor* ApiService::Wait(Call* call, const v1::WaitRequest* request,
                                           v1::Job* reply) {
  return answer(call, [this, call, request, reply](std::stop_token stop) -> Status {
    BATON_TRY(JobId id, find_job(request->job()));
    std::optional<core::TimeMs> deadline;
    if (request->timeout_ms()) deadline = boot_time_ms() + request->timeout_ms();
    return wait_ended(call, id, deadline, stop, *reply);
  });
}

Status ApiService::take_checkpoint(Call* call, const v1::CheckpointRequest& request,
                                   std::stop_token stop, v1::Checkpoint& checkpoint) {
  BATON_TRY(JobId id, own_job(call, request.job()));
  Loop::Request pending(context_.loop);
  BATON_CHECK(ask(core::UserCheckpoint{pending.id(), id}, stop));
  BATON_TRY(auto finished, pending.wait_checkpoint(stop));
  if (finished.number.value == 0)
    return fail(error_code(finished.failure),
                fmt::format("no checkpoint was taken; the job goes on: {}", finished.error));
  return context_.loop.with_lock([&](Loop::Locked& l) -> Status {
    auto entry = l.state.jobs.find(id);
    if (entry == l.state.jobs.end() || !entry->second.checkpoints.contains(finished.number))
      return fail(ErrorCode::NotFound,
                  fmt::format("checkpoint {} was taken and is gone again", finished.number));
    checkpoint = entry->second.checkpoints.at(finished.number);
    return {};
  });
}

grpc::ServerUnaryReactor* ApiService::TakeCheckpoint(Call* call,
                                                     const v1::CheckpointRequest* request,
                                                     v1::Checkpoint* reply) {
  return answer(call, [this, call, request, reply](std::stop_token stop) {
    return take_checkpoint(call, *request, stop, *reply);
  });
}

grpc::ServerUnaryReactor* ApiService::ListCheckpoints(Call* call, const v1::JobRef* request,
                                                      v1::ListCheckpointsReply* reply) {
  return answer(call, [this, request, reply](std::stop_token) -> Status {
    return context_.loop.with_lock([&](Loop::Locked& l) -> Status {
      BATON_TRY(JobId id, l.state.find_job(request->name_or_id()));
      for (const auto& [number, info] : l.state.jobs.at(id).checkpoints)
        *reply->add_checkpoints() = l.state.checkpoint_view(id, info);
      return {};
    });
  });
}

Status ApiService::finish_move(Call* call, Loop::Request& pending, JobId job,
                               const core::Input& input, std::stop_token stop,
                               v1::MoveReply& reply) {
  BATON_CHECK(ask(input, stop));
  BATON_TRY(auto finished, pending.wait_move(stop));
  *reply.mutable_timing() = to_wire(finished.timing);
  reply.mutable_timing()->set_job_id(job.value);
  BATON_CHECK(get_job(call, job, *reply.mutable_job()));
  reply.mutable_timing()->set_job_name(reply.job().spec().name());
  return {};
}

grpc::ServerUnaryReactor* ApiService::Migrate(Call* call, const v1::MigrateRequest* request,
                                              v1::MoveReply* reply) {
  return answer(call, [this, call, request, reply](std::stop_token stop) -> Status {
    BATON_TRY(JobId id, own_job(call, request->job()));
    Loop::Request pending(context_.loop);
    core::UserMigrate input{
        pending.id(),
        id,
        NodeId(request->to()),
        {.deadline_ms = request->deadline_ms(), .max_downtime_ms = request->max_downtime_ms()}};
    return finish_move(call, pending, id, input, stop, *reply);
  });
}

grpc::ServerUnaryReactor* ApiService::PlanMove(Call* call, const v1::MigrateRequest* request,
                                               v1::MovePlan* reply) {
  return answer(call, [this, request, reply](std::stop_token) -> Status {
    return context_.loop.with_lock([&](Loop::Locked& l) -> Status {
      BATON_TRY(const JobId id, l.state.find_job(request->job().name_or_id()));
      BATON_TRY(const core::Placement plan, l.state.core.plan_migration(id, NodeId(request->to())));
      const core::JobRecord* record = l.state.core.find_job(id);
      reply->set_job_name(record->name);
      reply->set_from(record->current->node.value);
      if (plan.node) reply->set_to(plan.node->value);
      reply->set_why(plan.why);
      for (const auto& other : plan.others) reply->add_others(other);
      for (const auto& rejected : plan.rejected) reply->add_rejected(rejected);
      return {};
    });
  });
}

grpc::ServerUnaryReactor* ApiService::Restore(Call* call, const v1::RestoreRequest* request,
                                              v1::MoveReply* reply) {
  return answer(call, [this, call, request, reply](std::stop_token stop) -> Status {
    BATON_TRY(JobId id, own_job(call, request->job()));
    Loop::Request pending(context_.loop);
    core::UserRestore input{pending.id(), id, CheckpointNumber(request->checkpoint()),
                            NodeId(request->to())};
    return finish_move(call, pending, id, input, stop, *reply);
  });
}

Status ApiService::stop_job(Call* call, const v1::StopRequest& request, std::stop_token stop,
                            v1::Job& job) {
  BATON_TRY(JobId id, own_job(call, request.job()));
  BATON_CHECK(ask(
      core::UserStop{0, id, request.has_grace_ms() ? request.grace_ms() : kDefaultGraceMs}, stop));
  return wait_ended(call, id, std::nullopt, stop, job);
}

grpc::ServerUnaryReactor* ApiService::Stop(Call* call, const v1::StopRequest* request,
                                           v1::Job* reply) {
  return answer(call, [this, call, request, reply](std::stop_token stop) {
    return stop_job(call, *request, stop, *reply);
  });
}

grpc::ServerUnaryReactor* ApiService::Kill(Call* call, const v1::KillRequest* request,
                                           v1::Job* reply) {
  return answer(call, [this, call, request, reply](std::stop_token stop) -> Status {
    if (request->signal() < 1 || request->signal() > kHighestSignal)
      return fail(ErrorCode::InvalidArgument,
                  fmt::format("there is no signal {}", request->signal()));
    BATON_TRY(JobId id, own_job(call, request->job()));
    BATON_CHECK(ask(core::UserKill{0, id, request->signal()}, stop));
    if (request->signal() == SIGKILL) return wait_ended(call, id, std::nullopt, stop, *reply);
    return get_job(call, id, *reply);
  });
}

Status ApiService::remove_job(Call* call, const v1::JobRef& ref, std::stop_token stop) {
  BATON_TRY(JobId id, own_job(call, ref));
  // Removing makes room, so it is fine on a full disk.
  auto applied = context_.loop.with_lock([&](Loop::Locked& l) {
    return l.apply(core::RemoveJob{0, id});
  });
  BATON_CHECK(applied.reply);
  bool gone = context_.loop.wait(
      stop, std::nullopt, [&](Loop::Locked& l) { return l.state.core.find_job(id) == nullptr; });
  if (!gone) return fail(ErrorCode::Cancelled, "cancelled");
  return context_.loop.wait_saved(applied.ticket, stop);
}

grpc::ServerUnaryReactor* ApiService::Remove(Call* call, const v1::JobRef* request, v1::Empty*) {
  return answer(call, [this, call, request](std::stop_token stop) {
    return remove_job(call, *request, stop);
  });
}

grpc::ServerUnaryReactor* ApiService::ListNodes(Call* call, const v1::ListNodesRequest* request,
                                                v1::ListNodesReply* reply) {
  return answer(call, [this, request, reply](std::stop_token) -> Status {
    // Facts are large and shared; they are copied when nobody waits for the lock.
    std::vector<std::shared_ptr<const v1::NodeFacts>> facts;
    context_.loop.with_lock([&](Loop::Locked& l) {
      for (const auto& view : l.state.core.nodes(l.now)) {
        *reply->add_nodes() = l.state.node_view(view);
        facts.push_back(l.state.node_facts(view.record.facts.id));
      }
    });
    for (int i = 0; i < reply->nodes_size(); ++i) {
      const v1::NodeFacts& all = *facts[static_cast<std::size_t>(i)];
      v1::NodeFacts& shown = *reply->mutable_nodes(i)->mutable_facts();
      if (request->cpu_features())
        shown = all;
      else
        copy_without_cpu_features(all, shown);
    }
    return {};
  });
}

Status ApiService::change_node(const core::Input& input, const std::string& name,
                               std::stop_token stop, v1::Node& node) {
  BATON_TRY(NodeId id,
            context_.loop.with_lock([&](Loop::Locked& l) { return l.state.find_node(name); }));
  BATON_CHECK(ask(input, stop));
  context_.loop.with_lock([&](Loop::Locked& l) {
    for (const auto& view : l.state.core.nodes(l.now))
      if (view.record.facts.id == id) {
        node = l.state.node_view(view);
        *node.mutable_facts() = *l.state.node_facts(id);
      }
  });
  return {};
}

grpc::ServerUnaryReactor* ApiService::Drain(Call* call, const v1::DrainRequest* request,
                                            v1::Node* reply) {
  return answer(call, [this, request, reply](std::stop_token stop) {
    return change_node(
        core::DrainNode{0, NodeId(request->node()), request->cancel(), request->deadline_ms()},
        request->node(), stop, *reply);
  });
}

grpc::ServerUnaryReactor* ApiService::Cordon(Call* call, const v1::NodeRef* request,
                                             v1::Node* reply) {
  return answer(call, [this, request, reply](std::stop_token stop) {
    return change_node(core::CordonNode{0, NodeId(request->name())}, request->name(), stop, *reply);
  });
}

grpc::ServerUnaryReactor* ApiService::Uncordon(Call* call, const v1::NodeRef* request,
                                               v1::Node* reply) {
  return answer(call, [this, request, reply](std::stop_token stop) {
    return change_node(core::UncordonNode{0, NodeId(request->name())}, request->name(), stop,
                       *reply);
  });
}

Status ApiService::stream_events(Call* call, const v1::EventsRequest& request,
                                 BlockingStream<v1::Event>& stream) {
  std::uint64_t job = 0;
  if (!request.job().name_or_id().empty()) {
    BATON_TRY(JobId id, find_job(request.job()));
    job = id.value;
  }
  std::uint64_t after = request.after();
  for (;;) {
    BATON_TRY(auto events, context_.loop.stores().events.read(after, job, request.follow(),
                                                              kEventsAtOnce, stream.stop_token()));
    if (events.empty() && !request.follow()) return {};
    BATON_CHECK(context_.access.caller(*call));  // may have been shut out meanwhile
    for (auto& event : events)
      if (!stream.write(std::move(event))) return fail(ErrorCode::Cancelled, "cancelled");
  }
}

grpc::ServerWriteReactor<v1::Event>* ApiService::Events(Call* call,
                                                        const v1::EventsRequest* request) {
  return BlockingStream<v1::Event>::start(
      context_.calls, context_.access.who(*call), [this, call, request](auto& stream) {
        return wire::to_grpc(explain(stream_events(call, *request, stream), context_.calls));
      });
}

Status ApiService::stream_logs(Call* call, const v1::LogsRequest& request,
                               BlockingStream<v1::LogsPart>& stream) {
  BATON_TRY(JobId id, find_job(request.job()));
  BATON_TRY(auto log, context_.loop.stores().logs.get(id));
  std::uint64_t offset = request.offset();
  const std::uint64_t end = log->length();
  for (;;) {
    auto part = request.follow()
                    ? log->follow(offset, kLogPartBytes, request.live(), stream.stop_token())
                    : log->read(offset, std::min<std::uint64_t>(kLogPartBytes,
                                                                end - std::min(offset, end)));
    if (!part) return fail(part.error());
    BATON_CHECK(context_.access.caller(*call));  // may have been shut out meanwhile
    offset = part->offset + part->data.size();
    bool last = part->ended || (!request.follow() && offset >= end);
    v1::LogsPart message;
    message.set_offset(part->offset);
    message.set_data(std::move(part->data));
    message.set_ended(part->ended);
    if ((!message.data().empty() || message.ended()) && !stream.write(std::move(message)))
      return fail(ErrorCode::Cancelled, "cancelled");
    if (last) return {};
  }
}

grpc::ServerWriteReactor<v1::LogsPart>* ApiService::Logs(Call* call,
                                                         const v1::LogsRequest* request) {
  return BlockingStream<v1::LogsPart>::start(
      context_.calls, context_.access.who(*call), [this, call, request](auto& stream) {
        return wire::to_grpc(explain(stream_logs(call, *request, stream), context_.calls));
      });
}

}  // namespace baton::control
