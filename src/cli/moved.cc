#include "cli/moved.h"

#include "cli/terminal.h"
#include "cli/units.h"

namespace baton::cli {

Result<int> report_move(const v1::MoveReply& reply, bool json) {
  const v1::Timing& timing = reply.timing();
  if (json) print_json(to_json(reply));
  if (!timing.ok())
    return fail(ErrorCode::Internal,
                fmt::format("{} was not moved: {}", reply.job().spec().name(), timing.error()));
  if (!json)
    fmt::print("{} runs on {} from checkpoint {}: down for {} (transfer {}, restore {})\n",
               reply.job().spec().name(), reply.job().node(), timing.checkpoint(),
               format_duration_ms(timing.downtime_ms()), format_duration_ms(timing.transfer_ms()),
               format_duration_ms(timing.restore_ms()));
  return 0;
}

}  // namespace baton::cli
