#include "wire/status.h"

#include <array>

namespace baton::wire {
namespace {

constexpr std::array kCodes = {
    std::pair{ErrorCode::Internal, grpc::StatusCode::INTERNAL},
    std::pair{ErrorCode::InvalidArgument, grpc::StatusCode::INVALID_ARGUMENT},
    std::pair{ErrorCode::NotFound, grpc::StatusCode::NOT_FOUND},
    std::pair{ErrorCode::AlreadyExists, grpc::StatusCode::ALREADY_EXISTS},
    std::pair{ErrorCode::FailedPrecondition, grpc::StatusCode::FAILED_PRECONDITION},
    std::pair{ErrorCode::StaleGeneration, grpc::StatusCode::FAILED_PRECONDITION},
    std::pair{ErrorCode::Unavailable, grpc::StatusCode::UNAVAILABLE},
    std::pair{ErrorCode::NoSpace, grpc::StatusCode::RESOURCE_EXHAUSTED},
    std::pair{ErrorCode::Damaged, grpc::StatusCode::DATA_LOSS},
    std::pair{ErrorCode::Unfit, grpc::StatusCode::FAILED_PRECONDITION},
    std::pair{ErrorCode::Refused, grpc::StatusCode::FAILED_PRECONDITION},
    std::pair{ErrorCode::Forbidden, grpc::StatusCode::PERMISSION_DENIED},
    std::pair{ErrorCode::TimedOut, grpc::StatusCode::DEADLINE_EXCEEDED},
    std::pair{ErrorCode::Cancelled, grpc::StatusCode::CANCELLED},
};

constexpr std::string_view kStaleDetail = "stale generation";

std::string_view detail_of(ErrorCode code) {
  return code == ErrorCode::StaleGeneration ? kStaleDetail : to_string(code);
}

// A message that is larger than a peer may send or receive comes as RESOURCE_EXHAUSTED from gRPC
// itself, without our detail: that is bad input, not a full disk.
ErrorCode code_without_detail(grpc::StatusCode code) {
  if (code == grpc::StatusCode::RESOURCE_EXHAUSTED) return ErrorCode::InvalidArgument;
  for (const auto& [ours, theirs] : kCodes)
    if (theirs == code) return ours;
  return ErrorCode::Internal;
}

}  // namespace

grpc::Status to_grpc(const Error& error) {
  grpc::StatusCode code = grpc::StatusCode::INTERNAL;
  for (const auto& [ours, theirs] : kCodes)
    if (ours == error.code()) code = theirs;
  return grpc::Status(code, error.message(), std::string(detail_of(error.code())));
}

grpc::Status to_grpc(const Status& status) {
  return status ? grpc::Status::OK : to_grpc(status.error());
}

Error from_grpc(const grpc::Status& status) {
  for (const auto& [ours, theirs] : kCodes)
    if (status.error_code() == theirs && status.error_details() == detail_of(ours))
      return Error(ours, status.error_message());
  // Said by gRPC, without a word, of a service that is not on that port.
  if (status.error_code() == grpc::StatusCode::UNIMPLEMENTED)
    return Error(
        ErrorCode::Unfit,
        "who answers there does not know this call: it is of another version, or the "
        "port is for others (--listen of a controller is for agents, --listen-api for people)");
  return Error(code_without_detail(status.error_code()), status.error_message());
}

Status check(const grpc::Status& status) {
  if (status.ok()) return {};
  return fail(from_grpc(status));
}

}  // namespace baton::wire
