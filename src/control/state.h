// Everything the controller knows while it runs: the core, and beside it what the core does not
// need to know. Guarded by the Loop's lock.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "control/links.h"
#include "control/state_db.h"
#include "core/cluster.h"

namespace baton::control {

struct JobEntry {
  v1::JobSpec spec;
  std::int64_t submitted_wall_ms = 0;
  std::int64_t ended_wall_ms = 0;  // 0: it has not ended
  std::uint64_t next_checkpoint = 1;
  bool stored = false;  // the database has its spec
  std::map<CheckpointNumber, v1::Checkpoint> checkpoints;
  std::vector<v1::Timing> moves;
};

struct NodeEntry {
  std::shared_ptr<const v1::NodeFacts> facts;
  v1::NodeSample sample;
};

struct State {
  // Takes what was loaded; the core starts from it at `now`.
  State(const core::Config& config, Loaded loaded, core::TimeMs now);

  core::Cluster core;
  std::map<JobId, JobEntry> jobs;
  std::map<NodeId, NodeEntry> nodes;
  Links links;
  std::uint64_t next_job_id = 1;

  // By number, or by name. NotFound lists the names there are, if they are few.
  Result<JobId> find_job(const std::string& name_or_id) const;
  Result<NodeId> find_node(const std::string& name) const;

  // The job's checkpoint of that number; without one, the newest that is neither quarantined nor
  // damaged. NotFound names what is missing.
  Result<std::pair<JobId, CheckpointNumber>> find_checkpoint(const v1::CheckpointRef& ref) const;

  v1::Job job_view(JobId id) const;  // output lengths are the caller's to add
  // With the nodes that have a copy: of the newest one, that on which the job still runs.
  v1::Checkpoint checkpoint_view(JobId job, const v1::Checkpoint& info) const;
  // Without most of its facts, which are many.
  v1::Node node_view(const core::NodeView& view) const;
  // Never null.
  std::shared_ptr<const v1::NodeFacts> node_facts(const NodeId& id) const;

  Changes::Job job_changes(const core::JobRecord& record, const JobEntry& entry) const;
};

// No checkpoint to go back to, none to come, and no restart from the beginning: what such a job
// prints is never taken back.
bool nothing_to_go_back_to(const core::JobRecord& record, const JobEntry& entry);

}  // namespace baton::control
