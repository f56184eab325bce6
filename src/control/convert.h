// Between the wire's messages and the core's types. Pure.
#pragma once

#include "core/cluster.h"
#include "wire/baton.pb.h"

namespace baton::control {

v1::JobState to_wire(core::JobState state);
v1::NodeState to_wire(core::NodeState state);
v1::IncarnationState to_wire(core::IncarnationState state);
v1::Timing to_wire(const core::MoveTiming& timing);
v1::Policy to_wire(const core::Policy& policy);
v1::Node to_wire(const core::NodeView& view);  // of its facts the name alone

// Those that came before with the same names share their memory. Thread-safe.
core::CpuFeatures shared_features(core::CpuFeatures::Names names);
core::NodeFacts from_wire(const v1::NodeFacts& facts);
core::NodeSample from_wire(const v1::NodeSample& sample);
core::FailureKind from_wire(v1::FailureKind kind);
core::RestartPolicy from_wire(v1::RestartPolicy policy);
// Unknown words count as Lost.
core::ExitCause exit_cause_from_wire(std::string_view cause);
core::CheckpointFacts from_wire(const v1::Checkpoint& checkpoint);

// What the store keeps with a checkpoint, so that the job is known without the database. A long
// standard input is left out, and such a job does not start over by itself then.
std::string to_store_json(v1::Checkpoint checkpoint, const v1::JobSpec& spec);
// Damaged.
Result<v1::Checkpoint> from_store_json(const std::string& json);

// `base` with the fields of `overrides` that are set.
core::Policy merge(core::Policy base, const v1::Policy& overrides);

// What the core needs to know of a submitted job. Id and name are the caller's to set.
core::JobRecord record_from_spec(const v1::JobSpec& spec, const core::Policy& cluster_policy);

}  // namespace baton::control
