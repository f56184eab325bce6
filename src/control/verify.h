// Reads checkpoints and records what came of it: when, and what is damaged.
#pragma once

#include <functional>
#include <stop_token>
#include <utility>
#include <vector>

#include "control/loop.h"
#include "store/checkpoint_store.h"

namespace baton::control {

// All that are recorded, by job and number.
std::vector<std::pair<JobId, CheckpointNumber>> recorded_checkpoints(Loop& loop);

// Compares everything in the checkpoint with its hashes and records the result; an unchanged one
// only when the last was recorded `record_again_after_ms` ago. NotFound: it is not there (any
// more). Damage is no error.
Result<v1::VerifiedCheckpoint> verify_checkpoint(
    Loop& loop, JobId job, CheckpointNumber number,
    const store::CheckpointStore::CheckOptions& options, std::int64_t record_again_after_ms = 0);

// Verifies what the request means, one after the other, and hands on each result. Those that
// retention removes meanwhile are left out, unless one was named.
Status verify_checkpoints(Loop& loop, const v1::VerifyRequest& request, std::stop_token stop,
                          const std::function<Status(v1::VerifiedCheckpoint)>& take);

}  // namespace baton::control
