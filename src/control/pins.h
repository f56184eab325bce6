// Pins: names that people give to checkpoints which retention is to leave alone.
#pragma once

#include "control/service_context.h"

namespace baton::control {

// Returns when the pin is saved: from then on nothing but removing the job removes the checkpoint.
// A name that it has already changes nothing. The job may be pinned at its newest good checkpoint
// by leaving out the number.
Result<v1::Checkpoint> pin(ServiceContext& context, const v1::PinRequest& request,
                           std::stop_token stop);
// Takes one name away, or all. NotFound: it has no such pin. What retention does not keep without
// it goes at once.
Result<v1::Checkpoint> unpin(ServiceContext& context, const v1::UnpinRequest& request,
                             std::stop_token stop);

}  // namespace baton::control
