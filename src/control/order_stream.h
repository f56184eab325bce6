// The stream that an agent holds open: orders down, results up.
#pragma once

#include <grpcpp/support/server_callback.h>

#include "control/service_context.h"

namespace baton::control {

// Answers one Attach call. It waits on no thread: orders are sent by whoever saved the decision, or
// by the end of the order before.
grpc::ServerBidiReactor<v1::AgentMessage, v1::Order>* serve_orders(
    ServiceContext& context, grpc::CallbackServerContext& call);

}  // namespace baton::control
