// What changed from one checkpoint of a job to another.
#pragma once

#include "control/service_context.h"

namespace baton::control {

// Reads both at the controller. Damaged names what can't be read. Files beyond a bound are left
// out.
Result<v1::DiffReply> compare(ServiceContext& context, const v1::DiffRequest& request);

}  // namespace baton::control
