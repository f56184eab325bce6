#include "control/cluster_service.h"

#include "base/log.h"
#include "control/agent_words.h"
#include "control/convert.h"
#include "control/order_stream.h"
#include "wire/status.h"

namespace baton::control {
namespace {

// Enough heartbeats per lease that losing a few costs nothing.
constexpr std::uint32_t kHeartbeatsPerLease = 5;

}  // namespace

Status ClusterService::check_holder(Loop::Locked& l, const grpc::ServerContext& call, JobId job,
                                    Generation generation) const {
  return context_.access.check_holder(call, l.state, job, generation);
}

grpc::Status ClusterService::Register(grpc::ServerContext* call, const v1::RegisterRequest* request,
                                      v1::RegisterReply* reply) {
  const auto taken = take_registration(*request);
  if (!taken) return wire::to_grpc(taken.error());
  const core::NodeRegistered& input = *taken;
  if (auto status = context_.access.check_node(*call, input.facts.id); !status)
    return wire::to_grpc(status);
  auto facts = std::make_shared<const v1::NodeFacts>(request->facts());
  Loop::Applied applied = context_.loop.with_lock([&](Loop::Locked& l) {
    l.state.nodes[input.facts.id].facts = std::move(facts);
    return l.apply(input);
  });
  if (!applied.registered)
    return wire::to_grpc(Error(ErrorCode::FailedPrecondition, "the registration was refused"));
  if (!applied.registered->refused.empty())
    return wire::to_grpc(Error(ErrorCode::Unavailable, applied.registered->refused));
  if (auto saved = context_.loop.wait_saved(applied.ticket, context_.calls.stop_token()); !saved)
    return wire::to_grpc(Error(ErrorCode::Unavailable, saved.error().message()));
  reply->set_lease_ms(applied.registered->lease_ms);
  reply->set_heartbeat_ms(std::max(applied.registered->lease_ms / kHeartbeatsPerLease, 1u));
  for (const auto& kill : applied.registered->kill) {
    auto* incarnation = reply->add_kill();
    incarnation->set_job_id(kill.job.value);
    incarnation->set_generation(kill.generation.value);
    incarnation->set_state(to_wire(kill.state));
  }
  *reply->mutable_policy() = context_.policy;
  return grpc::Status::OK;
}

grpc::ServerUnaryReactor* ClusterService::Heartbeat(grpc::CallbackServerContext* call,
                                                    const v1::HeartbeatRequest* request,
                                                    v1::HeartbeatReply* reply) {
  auto* reactor = call->DefaultReactor();
  reactor->Finish(heartbeat(*call, *request, *reply));
  return reactor;
}

grpc::Status ClusterService::heartbeat(const grpc::ServerContextBase& call,
                                       const v1::HeartbeatRequest& request,
                                       v1::HeartbeatReply& reply) {
  if (auto status = context_.access.check_node(call, NodeId(request.node())); !status)
    return wire::to_grpc(status);
  const auto taken = take_heartbeat(request);
  if (!taken) return wire::to_grpc(taken.error());
  const core::Heartbeat& input = *taken;
  // The answer does not wait for the disk: a renewal changes nothing that is saved.
  Loop::Applied applied = context_.loop.with_lock([&](Loop::Locked& l) {
    Loop::Applied result = l.apply(input);
    auto entry = l.state.nodes.find(input.node);
    if (result.heartbeat && result.heartbeat->renewed && entry != l.state.nodes.end())
      entry->second.sample = request.sample();
    return result;
  });
  if (applied.heartbeat) {
    reply.set_renewed(applied.heartbeat->renewed);
    reply.set_lease_ms(applied.heartbeat->lease_ms);
  }
  *reply.mutable_policy() = context_.policy;
  return grpc::Status::OK;
}

grpc::ServerBidiReactor<v1::AgentMessage, v1::Order>* ClusterService::Attach(
    grpc::CallbackServerContext* call) {
  return serve_orders(context_, *call);
}

grpc::Status ClusterService::ShipOutput(grpc::ServerContext* call, const v1::OutputChunk* request,
                                        v1::OutputReply* reply) {
  JobId job(request->job_id());
  Status allowed = context_.loop.with_lock([&](Loop::Locked& l) -> Status {
    if (!l.state.jobs.contains(job))
      return fail(ErrorCode::StaleGeneration, fmt::format("there is no job {}", job));
    return check_holder(l, *call, job, Generation(request->generation()));
  });
  if (!allowed) return wire::to_grpc(allowed);
  auto log = context_.loop.stores().logs.get(job);
  if (!log) return wire::to_grpc(log.error());
  auto next = (*log)->append(Generation(request->generation()), request->offset(), request->data());
  if (!next) return wire::to_grpc(next.error().context(fmt::format("job {}", job)));
  reply->set_next_offset(*next);
  return grpc::Status::OK;
}

grpc::Status ClusterService::HasSharedFiles(grpc::ServerContext*,
                                            const v1::HasSharedFilesRequest* request,
                                            v1::HasSharedFilesReply* reply) {
  auto missing = context_.loop.stores().checkpoints.missing_shared_files(
      JobId(request->job_id()), {request->xxh3_128().begin(), request->xxh3_128().end()});
  for (auto& hash : missing) reply->add_missing(std::move(hash));
  return grpc::Status::OK;
}

grpc::Status ClusterService::UploadCheckpoint(grpc::ServerContext* call,
                                              grpc::ServerReader<v1::UploadPart>* stream,
                                              v1::UploadReply* reply) {
  std::stop_callback cancel(context_.calls.stop_token(), [&] { call->TryCancel(); });
  auto number = bulk_.upload(*stream, [&](Loop::Locked& l, JobId job, Generation generation) {
    return check_holder(l, *call, job, generation);
  });
  if (!number) return wire::to_grpc(number.error());
  reply->set_number(number->value);
  return grpc::Status::OK;
}

grpc::Status ClusterService::DownloadCheckpoint(grpc::ServerContext* call,
                                                const v1::DownloadRequest* request,
                                                grpc::ServerWriter<v1::DownloadPart>* stream) {
  std::stop_callback cancel(context_.calls.stop_token(), [&] { call->TryCancel(); });
  if (auto status = context_.access.check_node(*call, NodeId(request->node())); !status)
    return wire::to_grpc(status);
  return wire::to_grpc(bulk_.download(*request, *stream));
}

grpc::Status ClusterService::ReportExit(grpc::ServerContext* call, const v1::ExitReport* request,
                                        v1::Empty*) {
  const core::IncarnationExited input = take_exit(*request);
  Result<Ticket> ticket = context_.loop.with_lock([&](Loop::Locked& l) -> Result<Ticket> {
    BATON_CHECK(check_holder(l, *call, input.job, input.generation));
    bool current = l.state.core.standing(input.job, input.generation) == core::Standing::Current;
    if (current && input.cause == core::ExitCause::Exited) {
      BATON_TRY(auto log, context_.loop.stores().logs.get(input.job));
      if (log->length() < request->output_bytes())
        return fail(ErrorCode::Unavailable,
                    fmt::format("job {}: {} of {} bytes of output have come", input.job,
                                log->length(), request->output_bytes()));
    }
    return l.apply(input).ticket;
  });
  if (!ticket) return wire::to_grpc(ticket.error());
  // The agent forgets the incarnation once this is answered.
  return wire::to_grpc(context_.loop.wait_saved(*ticket, context_.calls.stop_token()));
}

grpc::Status ClusterService::ReportCheckpoint(grpc::ServerContext* call,
                                              const v1::CheckpointReport* request, v1::Empty*) {
  const core::CheckpointReported input = take_report(*request);
  Result<Ticket> ticket = context_.loop.with_lock([&](Loop::Locked& l) -> Result<Ticket> {
    BATON_CHECK(check_holder(l, *call, input.job, input.generation));
    Loop::Extra extra;
    if (auto entry = l.state.jobs.find(input.job);
        entry != l.state.jobs.end() && input.preflight && !request->failure()) {
      auto found = entry->second.checkpoints.find(input.checkpoint);
      if (found != entry->second.checkpoints.end() && !found->second.preflighted()) {
        found->second.set_preflighted(true);
        extra.changes.checkpoints.push_back({input.job, found->second});
      }
    }
    return l.apply(input, std::move(extra)).ticket;
  });
  if (!ticket) return wire::to_grpc(ticket.error());
  return wire::to_grpc(context_.loop.wait_saved(*ticket, context_.calls.stop_token()));
}

}  // namespace baton::control
