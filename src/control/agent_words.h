// What agents say, as the core takes it. An agent is somebody that has a certificate, and its node
// may be in other hands: what it says is bounded, and figures are such that one can calculate with
// them. Pure.
#pragma once

#include "core/messages.h"
#include "wire/baton.pb.h"

namespace baton::control {

// Of one node at a time; incarnations and copies each.
constexpr int kMaxListed = 65'536;

// InvalidArgument: a name that is none, a list or a text without measure.
Result<core::NodeRegistered> take_registration(const v1::RegisterRequest& request);
Result<core::Heartbeat> take_heartbeat(const v1::HeartbeatRequest& request);
// What is set apart by the order itself (its kind, job, node …) is left to the caller.
core::OrderDone take_result(const v1::OrderResult& result);
core::CheckpointReported take_report(const v1::CheckpointReport& report);
core::IncarnationExited take_exit(const v1::ExitReport& report);

}  // namespace baton::control
