// The controller's mind: which incarnation runs where, and what to do about it.
//
// A pure, deterministic state machine: no I/O, no clock, no threads, no randomness. The same
// inputs at the same times give the same outputs. One thread at a time; `now` never goes back.
//
// Promise 1 is kept here: an attempt to run a job is ordered only when its last incarnation is
// certainly not running, that is when it
//   (a) is held: frozen, its last checkpoint committed, armed to die with its agent;
//   (b) was reported as ended;
//   (c) lived on a node whose lease has run out, counted from the receipt of the last heartbeat
//       that was renewed: lease_ms * (1 + 2 * clock_rate_error) + fence_margin_ms;
//   (d) was confirmed gone by the node: its agent did not list it, was told to kill that
//       generation for good, and has said so. (A list alone may be older than an order.)
//
// After a restart of the controller: construct with the saved records. Every node that was up is
// taken to hold a lease granted at `now`. No heartbeat is renewed before the node has registered
// again; what it lists then is adopted, and what was under way is settled by it.
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "core/messages.h"
#include "core/placement.h"
#include "core/records.h"
#include "core/types.h"

namespace baton::core {

// What control shows of a node.
struct NodeView {
  NodeRecord record;
  NodeState state = NodeState::Lost;
  NodeSample sample;
  std::int64_t lease_remaining_ms = 0;
  std::uint32_t job_count = 0;
  bool overloaded = false;
  std::string remark;
};

// The node that keeps a job's newest checkpoint ready; empty: none. 0: nothing is there yet.
struct StandbyView {
  NodeId node;
  CheckpointNumber ready;
};

enum class Standing {
  Current,  // its checkpoints and its output may be accepted
  Attempt,  // may become current: answer Unavailable to its checkpoints
  Stale,    // superseded or unknown: refuse with StaleGeneration
};

class Cluster {
 public:
  Cluster(Config config, std::vector<JobRecord> jobs, std::vector<NodeRecord> nodes, TimeMs now);
  ~Cluster();
  Cluster(Cluster&&) noexcept;
  Cluster& operator=(Cluster&&) noexcept;

  // Handles what is due at `now`, then the input. Outputs are to be executed in their order,
  // records first (see messages.h).
  std::vector<Output> apply(const Input& input, TimeMs now);
  // When a Tick is wanted; the largest TimeMs when none is.
  TimeMs next_deadline() const;

  const Config& config() const;
  // For how long after its last heartbeat a node may still run something.
  static TimeMs lease_term(const Config& config);
  // Pointers and references are valid until the next apply().
  const JobRecord* find_job(JobId id) const;
  const JobRecord* find_job(std::string_view name) const;
  std::vector<const JobRecord*> jobs() const;  // ascending by id
  const JobRecord* next_job(JobId after) const;
  const NodeRecord* find_node(const NodeId& id) const;
  std::vector<NodeView> nodes(TimeMs now) const;  // ascending by name
  Standing standing(JobId job, Generation generation) const;
  // Where a user's wish to move the job would bring it now, and why; the errors of UserMigrate.
  Result<Placement> plan_migration(JobId id, const NodeId& to) const;
  StandbyView standby(JobId job) const;
  // The node was asked to keep copies of the job's checkpoints.
  bool may_stage(JobId job, const NodeId& node) const;
  // An order under way needs it, or it is the newest that would be restored.
  bool checkpoint_in_use(JobId job, CheckpointNumber number) const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace baton::core
