// The end of a command that moved a job.
#pragma once

#include "base/result.h"
#include "wire/baton.pb.h"

namespace baton::cli {

// Prints where the job runs now and what the move took. An error if the move failed.
Result<int> report_move(const v1::MoveReply& reply, bool json);

}  // namespace baton::cli
