// The users' side of the controller. Each call runs on a thread of its own and ends when its
// client goes away or the controller stops; what it has set going goes on.
#pragma once

#include "control/service_context.h"
#include "wire/baton.grpc.pb.h"

namespace baton::control {

class ApiService final : public v1::Api::CallbackService {
 public:
  explicit ApiService(ServiceContext& context) : context_(context) {}

  using Call = grpc::CallbackServerContext;

  grpc::ServerUnaryReactor* Version(Call*, const v1::Empty*, v1::VersionReply*) override;
  grpc::ServerUnaryReactor* Run(Call*, const v1::RunRequest*, v1::Job*) override;
  grpc::ServerUnaryReactor* ListJobs(Call*, const v1::ListJobsRequest*,
                                     v1::ListJobsReply*) override;
  grpc::ServerUnaryReactor* GetJob(Call*, const v1::JobRef*, v1::Job*) override;
  grpc::ServerWriteReactor<v1::LogsPart>* Logs(Call*, const v1::LogsRequest*) override;
  grpc::ServerUnaryReactor* Wait(Call*, const v1::WaitRequest*, v1::Job*) override;
  grpc::ServerUnaryReactor* TakeCheckpoint(Call*, const v1::CheckpointRequest*,
                                           v1::Checkpoint*) override;
  grpc::ServerUnaryReactor* ListCheckpoints(Call*, const v1::JobRef*,
                                            v1::ListCheckpointsReply*) override;
  grpc::ServerUnaryReactor* Migrate(Call*, const v1::MigrateRequest*, v1::MoveReply*) override;
  grpc::ServerUnaryReactor* PlanMove(Call*, const v1::MigrateRequest*, v1::MovePlan*) override;
  grpc::ServerUnaryReactor* Restore(Call*, const v1::RestoreRequest*, v1::MoveReply*) override;
  grpc::ServerUnaryReactor* Stop(Call*, const v1::StopRequest*, v1::Job*) override;
  grpc::ServerUnaryReactor* Kill(Call*, const v1::KillRequest*, v1::Job*) override;
  grpc::ServerUnaryReactor* Remove(Call*, const v1::JobRef*, v1::Empty*) override;
  grpc::ServerUnaryReactor* ListNodes(Call*, const v1::ListNodesRequest*,
                                      v1::ListNodesReply*) override;
  grpc::ServerUnaryReactor* Drain(Call*, const v1::DrainRequest*, v1::Node*) override;
  grpc::ServerUnaryReactor* Cordon(Call*, const v1::NodeRef*, v1::Node*) override;
  grpc::ServerUnaryReactor* Uncordon(Call*, const v1::NodeRef*, v1::Node*) override;
  grpc::ServerWriteReactor<v1::Event>* Events(Call*, const v1::EventsRequest*) override;

 private:
  // Runs `body`, which returns a Status, as one answered call.
  template <typename Body>
  grpc::ServerUnaryReactor* answer(Call* call, Body body);

  Result<JobId> find_job(const v1::JobRef& ref);
  Result<JobId> own_job(Call* call, const v1::JobRef& ref);
  Status get_job(Call* call, JobId id, v1::Job& job);
  Status list_jobs(Call* call, const v1::ListJobsRequest& request, v1::ListJobsReply& reply);
  void complete(const Caller& caller, v1::Job& job);
  Result<JobId> submit(Call* call, v1::JobSpec spec, std::stop_token stop);
  // Applies a user's wish and waits until it is saved.
  Status ask(const core::Input& input, std::stop_token stop);
  Status finish_move(Call* call, Loop::Request& request, JobId job, const core::Input& input,
                     std::stop_token stop, v1::MoveReply& reply);
  Status stop_job(Call* call, const v1::StopRequest& request, std::stop_token stop, v1::Job& job);
  Status remove_job(Call* call, const v1::JobRef& ref, std::stop_token stop);
  Status take_checkpoint(Call* call, const v1::CheckpointRequest& request, std::stop_token stop,
                         v1::Checkpoint& checkpoint);
  Status wait_ended(Call* call, JobId id, std::optional<core::TimeMs> deadline,
                    std::stop_token stop, v1::Job& job);
  Status change_node(const core::Input& input, const std::string& name, std::stop_token stop,
                     v1::Node& node);
  Status stream_logs(Call* call, const v1::LogsRequest& request,
                     BlockingStream<v1::LogsPart>& stream);
  Status stream_events(Call* call, const v1::EventsRequest& request,
                       BlockingStream<v1::Event>& stream);

  ServiceContext& context_;
};

}  // namespace baton::control
