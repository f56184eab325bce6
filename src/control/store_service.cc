#include "control/store_service.h"

#include "control/answer.h"
#include "control/housekeeping.h"
#include "control/pins.h"
#include "control/verify.h"

namespace baton::control {
namespace {

template <typename Reply>
Status give(Reply& reply, Result<Reply> result) {
  if (!result) return fail(std::move(result).error());
  reply = std::move(*result);
  return {};
}

}  // namespace

grpc::ServerUnaryReactor* StoreService::Pin(Call*, const v1::PinRequest* request,
                                            v1::Checkpoint* reply) {
  return answer(context_.calls, [this, request, reply](std::stop_token stop) {
    return give(*reply, pin(context_, *request, stop));
  });
}

grpc::ServerUnaryReactor* StoreService::Unpin(Call*, const v1::UnpinRequest* request,
                                              v1::Checkpoint* reply) {
  return answer(context_.calls, [this, request, reply](std::stop_token stop) {
    return give(*reply, unpin(context_, *request, stop));
  });
}

grpc::ServerUnaryReactor* StoreService::Orphans(Call*, const v1::Empty*,
                                                v1::StoreOrphansReply* reply) {
  return answer(context_.calls, [this, reply](std::stop_token stop) {
    return give(*reply, list_orphans(context_.loop, bulk_, stop));
  });
}

grpc::ServerUnaryReactor* StoreService::Collect(Call*, const v1::Empty*, v1::CollectReply* reply) {
  return answer(context_.calls, [this, reply](std::stop_token stop) {
    return give(*reply, collect(context_.loop, bulk_, stop));
  });
}

grpc::ServerUnaryReactor* StoreService::Stats(Call*, const v1::Empty*, v1::StoreStatsReply* reply) {
  return answer(context_.calls, [this, reply](std::stop_token) {
    *reply = store_stats(context_.loop);
    return Status();
  });
}

grpc::ServerWriteReactor<v1::VerifiedCheckpoint>* StoreService::Verify(
    Call*, const v1::VerifyRequest* request) {
  return BlockingStream<v1::VerifiedCheckpoint>::start(context_.calls, [this,
                                                                        request](auto& stream) {
    auto send = [&](v1::VerifiedCheckpoint verified) {
      return stream.write(std::move(verified)) ? Status()
                                               : Status(fail(ErrorCode::Cancelled, "cancelled"));
    };
    return wire::to_grpc(explain(
        verify_checkpoints(context_.loop, *request, stream.stop_token(), send), context_.calls));
  });
}

}  // namespace baton::control
