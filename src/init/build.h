// Builds the sandbox around pid 1 as its configuration says.
#pragma once

#include <cstdint>

#include "init/protocol.h"

namespace baton::init {

struct Built {
  std::int64_t lease_deadline_boot_ns = 0;
};

// Executes the configuration at kConfigFd: mounts, the new root, the host's name. False: `report`
// says what could not be done.
bool build_sandbox(Built* built, Report* report);

}  // namespace baton::init
