// A checkpoint as people name it: JOB@NUMBER.
#pragma once

#include <string>

#include "base/result.h"
#include "wire/baton.pb.h"

namespace baton::cli {

// "loop@7"; "loop" alone has number 0, the newest good one. InvalidArgument: "loop@", "loop@x".
Result<v1::CheckpointRef> parse_checkpoint(const std::string& text);

}  // namespace baton::cli
