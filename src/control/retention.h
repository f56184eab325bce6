// Carries out what core/retention.h decides.
#pragma once

#include <vector>

#include "control/loop.h"

namespace baton::control {

// Lets go of the checkpoints of a job that its policy does not keep, but for those that are in use
// or pinned. They are gone from every list at once and from the disk soon after. Returns them.
std::vector<v1::Checkpoint> retire_checkpoints(Loop& loop, JobId job);

}  // namespace baton::control
