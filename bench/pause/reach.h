// The cases that the project set itself bars for, in one run, with the peers.
#pragma once

#include <nlohmann/json.hpp>

#include "pause/series.h"

namespace baton::bench {

// {"cases": every series with all samples, "reach": a list of {case, figure, value, unit, bar,
// holds}}. A way that fails is printed, and its cells don't hold.
nlohmann::json run_reach(const Places& places);

}  // namespace baton::bench
