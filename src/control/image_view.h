// What is in a checkpoint, read from CRIU's images at the controller.
#pragma once

#include "control/service_context.h"

namespace baton::control {

// Bounded: what is beyond is counted. Values of environment variables only if the request asks for
// them. Damaged names what can't be read.
Result<v1::CheckpointImage> view_checkpoint(ServiceContext& context,
                                            const v1::InspectRequest& request);

}  // namespace baton::control
