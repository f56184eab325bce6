// The agents' side of the controller: registration, heartbeats, output and reports. Bulk
// (checkpoints) is in bulk.h, orders are in order_stream.h.
//
// What each node does all the time, heartbeats and its stream of orders, takes no thread while it
// waits; the rest waits for the disk.
#pragma once

#include "control/bulk.h"
#include "control/service_context.h"
#include "wire/baton.grpc.pb.h"

namespace baton::control {

class ClusterService final : public v1::Cluster::WithCallbackMethod_Heartbeat<
                                 v1::Cluster::WithCallbackMethod_Attach<v1::Cluster::Service>> {
 public:
  ClusterService(ServiceContext& context, Bulk& bulk) : context_(context), bulk_(bulk) {}

  grpc::Status Register(grpc::ServerContext* call, const v1::RegisterRequest* request,
                        v1::RegisterReply* reply) override;
  grpc::ServerUnaryReactor* Heartbeat(grpc::CallbackServerContext* call,
                                      const v1::HeartbeatRequest* request,
                                      v1::HeartbeatReply* reply) override;
  grpc::ServerBidiReactor<v1::AgentMessage, v1::Order>* Attach(
      grpc::CallbackServerContext* call) override;
  grpc::Status ShipOutput(grpc::ServerContext* call, const v1::OutputChunk* request,
                          v1::OutputReply* reply) override;
  grpc::Status HasSharedFiles(grpc::ServerContext* call, const v1::HasSharedFilesRequest* request,
                              v1::HasSharedFilesReply* reply) override;
  grpc::Status UploadCheckpoint(grpc::ServerContext* call,
                                grpc::ServerReader<v1::UploadPart>* stream,
                                v1::UploadReply* reply) override;
  grpc::Status DownloadCheckpoint(grpc::ServerContext* call, const v1::DownloadRequest* request,
                                  grpc::ServerWriter<v1::DownloadPart>* stream) override;
  grpc::Status ReportExit(grpc::ServerContext* call, const v1::ExitReport* request,
                          v1::Empty* reply) override;
  grpc::Status ReportCheckpoint(grpc::ServerContext* call, const v1::CheckpointReport* request,
                                v1::Empty* reply) override;

 private:
  grpc::Status heartbeat(const grpc::ServerContextBase& call, const v1::HeartbeatRequest& request,
                         v1::HeartbeatReply& reply);
  // Forbidden: the incarnation is another node's.
  Status check_holder(Loop::Locked& l, const grpc::ServerContext& call, JobId job,
                      Generation generation) const;

  ServiceContext& context_;
  Bulk& bulk_;
};

}  // namespace baton::control
