// Errors across gRPC: an Error's code and message survive the trip in both directions.
//
// The exact ErrorCode travels in the status's details ("no-space"; "stale generation" for
// StaleGeneration), so that codes which share a gRPC code come back apart.
#pragma once

#include <grpcpp/support/status.h>

#include "base/result.h"

namespace baton::wire {

grpc::Status to_grpc(const Error& error);
grpc::Status to_grpc(const Status& status);

// `status` must not be ok.
Error from_grpc(const grpc::Status& status);
// An ok status, or the error it stands for.
Status check(const grpc::Status& status);

}  // namespace baton::wire
