#include "control/store_service.h"

#include "control/answer.h"
#include "control/pins.h"

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

}  // namespace baton::control
