// What the gRPC services share.
#pragma once

#include "control/access.h"
#include "control/blocking_call.h"
#include "control/loop.h"
#include "wire/baton.pb.h"

namespace baton::control {

struct ServiceContext {
  Loop& loop;
  CallGroup& calls;
  Members& members;
  const Access& access;
  v1::Policy policy;  // the cluster's, every field set
  std::uint32_t lease_ms = 0;
  std::int64_t started_wall_ms = 0;
  std::size_t most_jobs = SIZE_MAX;
};

}  // namespace baton::control
