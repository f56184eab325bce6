// Is what a user asks for well formed? Pure functions; InvalidArgument with a sentence for people.
#pragma once

#include <string_view>

#include "base/result.h"
#include "wire/baton.pb.h"

namespace baton::control {

constexpr std::uint32_t kMinIntervalMs = 50;

// [a-zA-Z0-9_.-]{1,63}, not only digits (those are ids), neither "." nor "..".
Status check_job_name(std::string_view name);
// [a-zA-Z0-9_.-]{1,63}.
Status check_node_name(std::string_view name);
// [a-zA-Z0-9_.-]{1,63}.
Status check_pin_name(std::string_view name);
// FailedPrecondition: as many jobs are known as may be.
Status check_job_count(std::size_t known, std::size_t most);
// Everything in the spec that can be judged without knowing the cluster. An empty name is fine.
Status check_job_spec(const v1::JobSpec& spec);
Status check_policy(const v1::Policy& policy);

}  // namespace baton::control
