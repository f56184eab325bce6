// A unary call as a function that returns a Status.
#pragma once

#include "base/result.h"
#include "control/blocking_call.h"
#include "wire/status.h"

namespace baton::control {

// A call that ends because the controller stops is worth trying again.
inline Status explain(Status status, const CallGroup& calls) {
  if (!status && status.error().code() == ErrorCode::Cancelled &&
      calls.stop_token().stop_requested())
    return fail(ErrorCode::Unavailable, "the controller is stopping");
  return status;
}

// Runs `body(std::stop_token)` as one answered call of `who`, see Access::who().
template <typename Body>
grpc::ServerUnaryReactor* answer(CallGroup& calls, std::string who, Body body) {
  return BlockingUnary::start(calls, std::move(who),
                              [&calls, body = std::move(body)](std::stop_token stop) {
                                return wire::to_grpc(explain(body(stop), calls));
                              });
}

}  // namespace baton::control
