// The core's records as text for the database, and back. Unknown fields are ignored and absent
// ones keep their defaults, so that an older or newer version can read what another wrote.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"
#include "core/records.h"

namespace baton::control {

// Without the checkpoints: they have a table of their own.
std::string encode_record(const core::JobRecord& record);
std::string encode_record(const core::NodeRecord& record);
Result<core::JobRecord> decode_job_record(std::string_view text);
Result<core::NodeRecord> decode_node_record(std::string_view text);

}  // namespace baton::control
