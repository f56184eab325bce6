// What this process may have of what the kernel counts.
#pragma once

#include "base/result.h"

namespace baton::sys {

// As many open files as the hard limit allows; the soft one is 1024 in most places.
Status allow_many_descriptors();

}  // namespace baton::sys
