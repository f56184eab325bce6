#include "base/result.h"

namespace baton {

std::string_view to_string(ErrorCode code) {
  switch (code) {
    case ErrorCode::Internal: return "internal";
    case ErrorCode::InvalidArgument: return "invalid-argument";
    case ErrorCode::NotFound: return "not-found";
    case ErrorCode::AlreadyExists: return "already-exists";
    case ErrorCode::FailedPrecondition: return "failed-precondition";
    case ErrorCode::StaleGeneration: return "stale-generation";
    case ErrorCode::Unavailable: return "unavailable";
    case ErrorCode::NoSpace: return "no-space";
    case ErrorCode::Damaged: return "damaged";
    case ErrorCode::Unfit: return "unfit";
    case ErrorCode::Refused: return "refused";
    case ErrorCode::Forbidden: return "forbidden";
    case ErrorCode::TimedOut: return "timed-out";
    case ErrorCode::Cancelled: return "cancelled";
  }
  return "unknown";
}

Error Error::from_errno(std::string_view what, int error_number) {
  ErrorCode code = ErrorCode::Internal;
  switch (error_number) {
    case ENOSPC:
    case EDQUOT: code = ErrorCode::NoSpace; break;
    case ENOENT: code = ErrorCode::NotFound; break;
    case EEXIST: code = ErrorCode::AlreadyExists; break;
    case ETIMEDOUT: code = ErrorCode::TimedOut; break;
    default: break;
  }
  return Error(code, fmt::format("{}: {}", what, std::strerror(error_number)));
}

}  // namespace baton
