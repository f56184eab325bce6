// What a verification found, for people.
#pragma once

#include "cli/session.h"

namespace baton::cli {

struct VerifyTotals {
  std::uint64_t checkpoints = 0;
  std::uint64_t damaged = 0;
  std::uint64_t bytes = 0;
};

// Has the controller verify what is meant and prints each result as it comes, as text or as one
// line of JSON.
Result<VerifyTotals> show_verification(Session& session, const v1::VerifyRequest& request,
                                       bool json);

}  // namespace baton::cli
