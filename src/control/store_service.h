// The store of checkpoints as its users see it: pins, verification, archives, comparison. Each call
// runs on a thread of its own and ends when its client goes away or the controller stops.
#pragma once

#include "control/bulk.h"
#include "control/service_context.h"
#include "wire/baton.grpc.pb.h"

namespace baton::control {

class StoreService final : public v1::Store::CallbackService {
 public:
  StoreService(ServiceContext& context, Bulk& bulk) : context_(context), bulk_(bulk) {}

  using Call = grpc::CallbackServerContext;

  grpc::ServerUnaryReactor* Pin(Call*, const v1::PinRequest*, v1::Checkpoint*) override;
  grpc::ServerUnaryReactor* Unpin(Call*, const v1::UnpinRequest*, v1::Checkpoint*) override;
  grpc::ServerWriteReactor<v1::VerifiedCheckpoint>* Verify(Call*,
                                                           const v1::VerifyRequest*) override;
  grpc::ServerUnaryReactor* Orphans(Call*, const v1::Empty*, v1::StoreOrphansReply*) override;
  grpc::ServerUnaryReactor* Collect(Call*, const v1::Empty*, v1::CollectReply*) override;
  grpc::ServerUnaryReactor* Stats(Call*, const v1::Empty*, v1::StoreStatsReply*) override;
  grpc::ServerWriteReactor<v1::ExportPart>* Export(Call*, const v1::CheckpointRef*) override;
  grpc::ServerReadReactor<v1::ImportPart>* Import(Call*, v1::Job*) override;
  grpc::ServerUnaryReactor* Diff(Call*, const v1::DiffRequest*, v1::DiffReply*) override;
  grpc::ServerUnaryReactor* Inspect(Call*, const v1::InspectRequest*,
                                    v1::CheckpointImage*) override;

 private:
  // Forbidden unless the caller may change the job; `ref` names it by its number afterwards, which
  // stays the same job's whatever happens to names.
  Status own_job(Call* call, v1::JobRef& ref);
  Status send_archive(Call* call, v1::CheckpointRef ref, BlockingStream<v1::ExportPart>& stream);
  Status take_archive(Call* call, BlockingUpload<v1::ImportPart>& stream, v1::Job& job);

  ServiceContext& context_;
  Bulk& bulk_;
};

}  // namespace baton::control
