// What the core knows of nodes and jobs. Plain data; no I/O, no clock, no threads.
//
// All times are milliseconds on the controller's boot-time clock, passed in by the caller.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/ids.h"
#include "core/cpu_features.h"

namespace baton::core {

using TimeMs = std::int64_t;

// The cluster's policy with every field set; a job's overrides are merged over it.
struct Policy {
  double cpu_threshold = 0.85;
  std::uint32_t cpu_for_ms = 5'000;
  double cpu_clear = 0.70;
  std::uint32_t cooldown_ms = 60'000;
  double memory_threshold = 0.95;
  std::uint32_t memory_for_ms = 10'000;
  std::uint32_t health_failures = 3;
  std::uint32_t keep_checkpoints = 3;
  std::uint32_t keep_hourly = 0;  // see retention.h
  std::uint32_t keep_daily = 0;
  bool migrate_on_overload = true;
  bool recover_on_node_lost = true;
  bool standby = true;  // keep the newest checkpoint ready on a second node; see staging.cc
};

struct Config {
  std::uint32_t lease_ms = 3'000;
  // How much faster or slower a node's clock may run than ours (bounded clock-rate error).
  double clock_rate_error = 0.001;
  // What pid 1 of a sandbox may take to end everything after its deadline.
  std::uint32_t fence_margin_ms = 150;
  // Consecutive attempts to bring one job back before it is Failed.
  std::uint32_t restore_attempts = 5;
  // For jobs that say "restart" without a limit.
  std::uint32_t default_restart_limit = 5;
  // A job's moves off a draining node, or one that is about to fail, at the same time.
  std::uint32_t drain_parallel = 2;
  std::uint32_t evacuate_parallel = 4;
  // When an order that is neither answered nor known to be void is given up. Large: they bound
  // bugs and hung disks, not slow networks.
  std::uint32_t freeze_timeout_ms = 900'000;
  std::uint32_t restore_timeout_ms = 900'000;
  std::uint32_t stage_timeout_ms = 900'000;
  // Checkpoints brought to the target of a planned move before the job is frozen: at most so many
  // (0: none), and no more once one took so little time.
  std::uint32_t stage_rounds = 4;
  std::uint32_t stage_short_ms = 150;
  std::uint32_t standby_retry_ms = 30'000;
  Policy policy;
};

enum class Cause {
  User,
  CpuOverload,
  MemoryPressure,
  NodeLost,
  Drain,
  AboutToFail,
  Restart,
  Accident
};

enum class FailureKind {
  None,
  Internal,
  Invalid,
  UnfitNode,
  DamagedCheckpoint,
  Refused,
  NoSpace,
  Stale,
  BrokenIncarnation,
};

enum class JobState {
  Pending,
  Starting,
  Running,
  Migrating,
  Recovering,
  Stopping,
  Exited,
  Stopped,
  Failed
};

enum class RestartPolicy { Never, Checkpoint, Scratch };

enum class NodeState { Up, Lost, Quiet };

enum class IncarnationState { Starting, Running, Held };

enum class ExitCause { Exited, Fenced, Killed, Lost };

enum class OrderKind { Start, Restore, Kill, Signal, Checkpoint, Freeze, Release, Stage };

// The words of the wire ("cpu-overload", "node-lost", …); logs and events use the same.
std::string_view to_string(Cause cause);
std::string_view to_string(FailureKind kind);
std::string_view to_string(JobState state);
std::string_view to_string(ExitCause cause);
std::string_view to_string(OrderKind kind);

constexpr bool has_ended(JobState state) {
  return state == JobState::Exited || state == JobState::Stopped || state == JobState::Failed;
}

struct NodeFacts {
  NodeId id;
  double cpus = 0;
  std::uint64_t memory_bytes = 0;
  std::string criu_version;  // empty: can't restore or checkpoint
  CpuFeatures cpu_features;
  bool cgroup_limits = false;
};

struct NodeSample {
  double cpu_utilization = 0;  // 0..1
  double memory_utilization = 0;
  bool about_to_fail = false;
  std::string about_to_fail_cause;
};

// What of a job's spec placement and policy need.
struct JobNeeds {
  std::uint64_t memory_bytes = 0;
  double cpus = 0;
  NodeId wanted_node;  // where to start; empty: any. Binds the first start only.
};

struct CheckpointFacts {
  CheckpointNumber number;
  std::string criu_version;
  CpuFeatures cpu_features;
  std::uint64_t output_bytes = 0;
  bool quarantined = false;
  bool preflighted = false;
  bool damaged = false;  // did not verify: tried when there is no other
};

// One incarnation as an agent reports it. A report lists all that live on the node; an
// incarnation stays listed until its exit report has been answered.
struct IncarnationReport {
  JobId job;
  Generation generation;
  IncarnationState state = IncarnationState::Running;
  double cpu_cores = -1;  // measured use; < 0: unknown
};

// A copy of a checkpoint that a node keeps because it was told to.
struct StagedReport {
  JobId job;
  CheckpointNumber checkpoint;  // 0: still being fetched
};

// One finished move, in milliseconds. Meanings as in wire's Timing.
struct MoveTiming {
  Cause cause = Cause::User;
  NodeId from;
  NodeId to;
  double detect_ms = 0;
  double decide_ms = 0;
  double stage_ms = 0;
  double transfer_ms = 0;
  double restore_ms = 0;
  double downtime_ms = 0;
  CheckpointNumber checkpoint;
  bool ok = false;
  std::string error;
};

}  // namespace baton::core
