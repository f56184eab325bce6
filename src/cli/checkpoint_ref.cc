#include "cli/checkpoint_ref.h"

#include "cli/units.h"

namespace baton::cli {

Result<v1::CheckpointRef> parse_checkpoint(const std::string& text) {
  v1::CheckpointRef ref;
  const auto at = text.find('@');
  ref.mutable_job()->set_name_or_id(text.substr(0, at));
  if (at == std::string::npos) return ref;
  const auto number = parse_number(std::string_view(text).substr(at + 1));
  if (!number || *number == 0)
    return fail(ErrorCode::InvalidArgument,
                fmt::format("\"{}\" is not a checkpoint; write JOB@NUMBER", text));
  ref.set_number(*number);
  return ref;
}

}  // namespace baton::cli
