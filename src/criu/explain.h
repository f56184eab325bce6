// Turns what CRIU said into one line that a person can act on.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"

namespace baton::criu {

enum class Operation { Dump, Restore };

struct Explanation {
  // Dump: Refused when the program uses something CRIU can't dump. Restore: Damaged when the image
  // is not whole, NotFound when a file is missing here that it does not hold, Unfit when another
  // node may do better for another reason. Internal when nothing is known about it.
  ErrorCode code = ErrorCode::Internal;
  std::string text;  // cause and cure; CRIU's own words when nothing is known about them
};

// `answer`: what CRIU gave as its error over RPC, which is the first one it logged, even if it got
// along without; may be empty. `log`: its log or the end of it, which is believed first.
Explanation explain(Operation operation, std::string_view answer, std::string_view log);

// As explain(), for a line that the caller made up from what it knows better than CRIU; see
// agent/engine/refusal.h.
Explanation explain_line(Operation operation, const std::string& line);

}  // namespace baton::criu
