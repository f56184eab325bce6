#include "cli/verified.h"

#include "cli/terminal.h"
#include "cli/units.h"

namespace baton::cli {
namespace {

void print(const v1::VerifiedCheckpoint& verified) {
  fmt::print("{}@{}: {}, {} files, {}\n", verified.job_name(), verified.number(),
             verified.damage_size() ? "DAMAGED" : "good", verified.files(),
             format_size(verified.bytes()));
  for (const std::string& damage : verified.damage()) fmt::print("  {}\n", damage);
  std::fflush(stdout);
}

}  // namespace

Result<VerifyTotals> show_verification(Session& session, const v1::VerifyRequest& request,
                                       bool json) {
  VerifyTotals totals;
  BATON_CHECK(session.stream(&v1::Store::Stub::Verify, request,
                             [&](const v1::VerifiedCheckpoint& verified) -> Status {
                               ++totals.checkpoints;
                               totals.damaged += verified.damage_size() ? 1 : 0;
                               totals.bytes += verified.bytes();
                               if (json)
                                 print_json(to_json(verified), false);
                               else
                                 print(verified);
                               return {};
                             }));
  return totals;
}

}  // namespace baton::cli
