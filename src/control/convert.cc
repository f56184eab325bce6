#include "control/convert.h"

#include <google/protobuf/util/json_util.h>

#include <algorithm>
#include <deque>
#include <mutex>

namespace baton::control {
namespace {

constexpr std::size_t kMostStoredStdinBytes = 64 << 10;

}  // namespace

// The enums of wire and core list the same things in the same order.
static_assert(static_cast<int>(core::JobState::Failed) == v1::JOB_FAILED);
static_assert(static_cast<int>(core::JobState::Recovering) == v1::JOB_RECOVERING);
static_assert(static_cast<int>(core::IncarnationState::Held) == v1::INCARNATION_HELD);
static_assert(static_cast<int>(core::FailureKind::BrokenIncarnation) ==
              v1::FAILURE_BROKEN_INCARNATION);
static_assert(static_cast<int>(core::FailureKind::Refused) == v1::FAILURE_REFUSED);
static_assert(static_cast<int>(core::RestartPolicy::Scratch) == v1::RESTART_SCRATCH);

v1::JobState to_wire(core::JobState state) { return static_cast<v1::JobState>(state); }

v1::NodeState to_wire(core::NodeState state) {
  switch (state) {
    case core::NodeState::Up: return v1::NODE_UP;
    case core::NodeState::Lost: return v1::NODE_LOST;
    case core::NodeState::Quiet: return v1::NODE_GONE_QUIET;
  }
  return v1::NODE_LOST;
}

v1::IncarnationState to_wire(core::IncarnationState state) {
  return static_cast<v1::IncarnationState>(state);
}

v1::Timing to_wire(const core::MoveTiming& timing) {
  v1::Timing wire;
  wire.set_cause(std::string(core::to_string(timing.cause)));
  wire.set_from(timing.from.value);
  wire.set_to(timing.to.value);
  wire.set_detect_ms(timing.detect_ms);
  wire.set_decide_ms(timing.decide_ms);
  wire.set_stage_ms(timing.stage_ms);
  wire.set_transfer_ms(timing.transfer_ms);
  wire.set_restore_ms(timing.restore_ms);
  wire.set_downtime_ms(timing.downtime_ms);
  wire.set_checkpoint(timing.checkpoint.value);
  wire.set_ok(timing.ok);
  wire.set_error(timing.error);
  return wire;
}

v1::Policy to_wire(const core::Policy& policy) {
  v1::Policy wire;
  wire.set_cpu_threshold(policy.cpu_threshold);
  wire.set_cpu_for_ms(policy.cpu_for_ms);
  wire.set_cpu_clear(policy.cpu_clear);
  wire.set_cooldown_ms(policy.cooldown_ms);
  wire.set_memory_threshold(policy.memory_threshold);
  wire.set_memory_for_ms(policy.memory_for_ms);
  wire.set_health_failures(policy.health_failures);
  wire.set_keep_checkpoints(policy.keep_checkpoints);
  wire.set_keep_hourly(policy.keep_hourly);
  wire.set_keep_daily(policy.keep_daily);
  wire.set_migrate_on_overload(policy.migrate_on_overload);
  wire.set_recover_on_node_lost(policy.recover_on_node_lost);
  wire.set_standby(policy.standby);
  return wire;
}

v1::Node to_wire(const core::NodeView& view) {
  v1::Node wire;
  wire.mutable_facts()->set_name(view.record.facts.id.value);
  wire.set_state(to_wire(view.state));
  wire.set_cordoned(view.record.cordoned);
  wire.set_draining(view.record.draining);
  wire.set_lease_remaining_ms(view.lease_remaining_ms);
  wire.set_job_count(view.job_count);
  wire.set_overloaded(view.overloaded);
  wire.set_remark(view.remark);
  return wire;
}

core::CpuFeatures shared_features(core::CpuFeatures::Names names) {
  constexpr std::size_t kKnown = 64;  // kinds of processors in one cluster
  static std::mutex mutex;
  static std::deque<core::CpuFeatures> known;
  core::CpuFeatures wanted(std::move(names));
  std::lock_guard lock(mutex);
  if (const auto found = std::ranges::find(known, wanted); found != known.end()) return *found;
  known.push_back(wanted);
  if (known.size() > kKnown) known.pop_front();
  return wanted;
}

core::NodeFacts from_wire(const v1::NodeFacts& facts) {
  core::NodeFacts result;
  result.id = NodeId(facts.name());
  result.cpus = facts.cpus();
  result.memory_bytes = facts.memory_bytes();
  result.criu_version = facts.criu_version();
  result.cpu_features = shared_features({facts.cpu_features().begin(), facts.cpu_features().end()});
  result.cgroup_limits = facts.cgroup_limits();
  return result;
}

core::NodeSample from_wire(const v1::NodeSample& sample) {
  core::NodeSample result;
  result.cpu_utilization = sample.cpu_utilization();
  result.memory_utilization = sample.memory_utilization();
  result.about_to_fail = sample.about_to_fail();
  result.about_to_fail_cause = sample.about_to_fail_cause();
  return result;
}

core::FailureKind from_wire(v1::FailureKind kind) {
  return v1::FailureKind_IsValid(kind) ? static_cast<core::FailureKind>(kind)
                                       : core::FailureKind::Internal;
}

core::RestartPolicy from_wire(v1::RestartPolicy policy) {
  return static_cast<core::RestartPolicy>(policy);
}

core::ExitCause exit_cause_from_wire(std::string_view cause) {
  for (auto known : {core::ExitCause::Exited, core::ExitCause::Fenced, core::ExitCause::Killed})
    if (core::to_string(known) == cause) return known;
  return core::ExitCause::Lost;
}

core::CheckpointFacts from_wire(const v1::Checkpoint& checkpoint) {
  core::CheckpointFacts facts;
  facts.number = CheckpointNumber(checkpoint.number());
  facts.criu_version = checkpoint.criu_version();
  facts.cpu_features =
      shared_features({checkpoint.cpu_features().begin(), checkpoint.cpu_features().end()});
  facts.output_bytes = checkpoint.output_bytes();
  facts.quarantined = checkpoint.quarantined();
  facts.preflighted = checkpoint.preflighted();
  facts.damaged = checkpoint.damage_size() > 0;
  return facts;
}

std::string to_store_json(v1::Checkpoint checkpoint, const v1::JobSpec& spec) {
  *checkpoint.mutable_spec() = spec;
  if (spec.stdin_data().size() > kMostStoredStdinBytes) {
    checkpoint.mutable_spec()->clear_stdin_data();
    checkpoint.mutable_spec()->set_restart(v1::RESTART_NEVER);
  }
  std::string json;
  (void)google::protobuf::util::MessageToJsonString(checkpoint, &json);
  return json;
}

Result<v1::Checkpoint> from_store_json(const std::string& json) {
  v1::Checkpoint checkpoint;
  google::protobuf::util::JsonParseOptions options;
  options.ignore_unknown_fields = true;  // a newer version's
  if (google::protobuf::util::JsonStringToMessage(json, &checkpoint, options).ok())
    return checkpoint;
  return fail(ErrorCode::Damaged, "a checkpoint's description can't be read");
}

core::Policy merge(core::Policy base, const v1::Policy& overrides) {
  if (overrides.has_cpu_threshold()) {
    base.cpu_threshold = overrides.cpu_threshold();
    base.cpu_clear = std::min(base.cpu_clear, base.cpu_threshold);
  }
  if (overrides.has_cpu_for_ms()) base.cpu_for_ms = overrides.cpu_for_ms();
  if (overrides.has_cpu_clear()) base.cpu_clear = overrides.cpu_clear();
  if (overrides.has_cooldown_ms()) base.cooldown_ms = overrides.cooldown_ms();
  if (overrides.has_memory_threshold()) base.memory_threshold = overrides.memory_threshold();
  if (overrides.has_memory_for_ms()) base.memory_for_ms = overrides.memory_for_ms();
  if (overrides.has_health_failures()) base.health_failures = overrides.health_failures();
  if (overrides.has_keep_checkpoints()) base.keep_checkpoints = overrides.keep_checkpoints();
  if (overrides.has_keep_hourly()) base.keep_hourly = overrides.keep_hourly();
  if (overrides.has_keep_daily()) base.keep_daily = overrides.keep_daily();
  if (overrides.has_migrate_on_overload())
    base.migrate_on_overload = overrides.migrate_on_overload();
  if (overrides.has_recover_on_node_lost())
    base.recover_on_node_lost = overrides.recover_on_node_lost();
  if (overrides.has_standby()) base.standby = overrides.standby();
  return base;
}

core::JobRecord record_from_spec(const v1::JobSpec& spec, const core::Policy& cluster_policy) {
  core::JobRecord record;
  record.needs.memory_bytes = spec.memory_bytes();
  record.needs.cpus = spec.cpus();
  record.needs.wanted_node = NodeId(spec.node());
  record.restart = from_wire(spec.restart());
  record.restart_limit = spec.restart_limit();
  record.policy = merge(cluster_policy, spec.policy());
  return record;
}

}  // namespace baton::control
