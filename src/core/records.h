// What survives a restart of the controller. Plain data, saved and loaded by control.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/types.h"

namespace baton::core {

struct IncarnationRecord {
  NodeId node;
  Generation generation;
  IncarnationState state = IncarnationState::Running;
};

// An incarnation that was ordered and of which nothing is known yet. It may be running.
struct AttemptRecord {
  NodeId node;
  Generation generation;
  CheckpointNumber from;      // 0: from scratch
  Cause cause = Cause::User;  // of the move it belongs to
};

// Saved when SaveJob names it. `checkpoints` mirrors control's table of checkpoints: control
// fills it when loading; it is not saved with the job.
struct JobRecord {
  // Given by the submitter, never changed by the core.
  JobId id;
  std::string name;
  JobNeeds needs;
  RestartPolicy restart = RestartPolicy::Never;
  std::uint32_t restart_limit = 0;  // 0: Config::default_restart_limit
  Policy policy;                    // cluster's with the job's overrides merged over it

  JobState state = JobState::Pending;
  std::string reason;  // why it is in this state, in one line
  std::optional<IncarnationRecord> current;
  std::optional<AttemptRecord> attempt;
  Generation next_generation{1};  // not used yet; only grows
  // Output of exactly this generation is accepted; set together with RollBackOutput.
  Generation output_generation;
  // The log agrees with the job's present past up to here; beyond, an attempt that came to nothing
  // may have printed. The largest value when there was none.
  std::uint64_t output_floor = UINT64_MAX;
  std::optional<int> exit_code;
  std::vector<CheckpointFacts> checkpoints;  // ascending by number

  bool is_protected = false;
  std::string unprotected_cause;  // empty: nothing is known against it
  bool preflight_failed = false;  // the cause is that of a preflight
  std::uint32_t restarts = 0;
  std::uint32_t failed_attempts = 0;  // in a row
  bool desired_stop = false;
  bool remove_when_ended = false;
  std::string last_error;
  std::string last_error_log;
};

// Saved when SaveNode names it.
struct NodeRecord {
  NodeFacts facts;
  std::string boot_id;
  bool lost = false;
  bool cordoned = false;
  bool draining = false;
};

}  // namespace baton::core
