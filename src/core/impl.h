// Inside of the cluster's state machine. Not for others.
//
// Level-triggered: an input changes facts and marks the jobs it concerns; drive() then looks at
// the facts of each marked job and takes the next step. So it does not matter in which order
// messages come, nor which ones never do.
#pragma once

#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "core/cluster.h"
#include "core/events.h"
#include "core/placement.h"
#include "core/planted.h"
#include "core/policy.h"

namespace baton::core {

using IncarnationKey = std::pair<JobId, Generation>;

struct Node {
  NodeRecord record;
  std::string epoch;  // empty: has not registered with this controller process yet
  std::set<std::string> old_epochs;
  TimeMs last_heard = 0;  // receipt of the last registration or renewed heartbeat
  TimeMs lease_end = 0;   // while not lost
  NodeSample sample;
  bool has_sample = false;
  OverloadWatch watch;              // by the cluster's policy
  TimeMs settle_until = 0;          // after a move for overload: let the figures follow first
  std::set<JobId> jobs;             // whose current incarnation or attempt is here
  std::set<IncarnationKey> ending;  // Kill or Release{kill} without an answer
  std::set<JobId> dropping;         // StageCheckpoint{0} without an answer
  std::optional<TimeMs> drain_until;
  // Each is told once per episode.
  bool overload_told = false;
  bool no_target_told = false;
  bool about_to_fail_told = false;
  bool drained_told = false;

  const NodeId& id() const { return record.facts.id; }
  bool reachable() const { return !record.lost && !epoch.empty(); }
};

// What a node was asked to keep of a job.
struct Staged {
  CheckpointNumber asked;  // the order under way; 0: none
  CheckpointNumber ready;  // 0: nothing yet
};

// How a planned move brings the job's checkpoints to the target while the job runs.
struct Rounds {
  enum class Step { Idle, Stage, Checkpoint, Done } step = Step::Idle;
  std::uint32_t finished = 0;
  TimeMs began = 0;       // the one under way
  CheckpointNumber goal;  // what it brings; 0: not known yet
  TimeMs last_ms = 0;
};

// A move under way, planned (the job has a current incarnation) or not.
struct Move {
  Cause cause = Cause::User;
  bool planned = false;
  NodeId from;
  NodeId to;                // chosen; empty: not yet
  NodeId only;              // the user's wish
  CheckpointNumber pinned;  // the user's wish; 0: the newest
  std::vector<RequestId> requests;
  bool pinned_failed = false;
  std::string why;      // for people
  std::string failure;  // not empty: being undone, and why
  Rounds rounds;
  bool freeze_sent = false;
  std::optional<TimeMs> deadline;  // of the order under way
  std::optional<TimeMs> give_up_at;
  std::uint32_t max_downtime_ms = 0;  // 0: any
  // For the timing.
  double detect_ms = 0;
  TimeMs fired_at = 0;
  std::optional<double> decide_ms;
  TimeMs decided_at = 0;
  TimeMs freeze_sent_at = 0;
  TimeMs held_at = 0;
  std::optional<TimeMs> down_since;  // the program stands still since then
  double stage_ms = 0;
  double transfer_ms = 0;
  double restore_ms = 0;
  double downtime_ms = 0;
  CheckpointNumber frozen_checkpoint;  // what the source was frozen into
  CheckpointNumber restored;           // what the job went on from
};

struct Job {
  JobRecord r;
  std::optional<Move> move;

  enum class Asked { Nothing, Freeze, Resume } asked = Asked::Nothing;  // of current, unanswered
  bool stray_held = false;   // the agent says held and we did not ask: tell it to resume
  bool end_current = false;  // kill until confirmed, then go on without
  bool end_attempt = false;
  std::string end_why;
  Cause end_cause = Cause::Accident;
  TimeMs kill_again_at = 0;
  // Heartbeats in a row that lack current, and since when.
  std::uint32_t missing_count = 0;
  TimeMs missing_since = 0;
  std::uint32_t attempt_running_count = 0;  // heartbeats that say that the attempt runs

  bool term_sent = false;
  std::optional<TimeMs> stop_kill_at;
  std::optional<TimeMs> finish_at;  // gone for sure; its exit report may still come
  int user_signal = 0;
  NodeId last_node;

  // A job without an incarnation.
  TimeMs retry_at = 0;
  bool waiting = false;                    // for a node that can take it
  TimeMs noted_deadline = 0;               // in the index; 0: none
  std::map<NodeId, std::string> excluded;  // nodes that could not, in this round
  std::map<CheckpointNumber, std::uint32_t> internal_failures;
  bool ever_ran = false;
  std::uint32_t quick_deaths = 0;  // accidents soon after it began to run, in a row

  // Policy moves.
  OverloadWatch watch;    // by the job's policy, while on its node
  double cpu_cores = -1;  // measured
  TimeMs arrived_at = 0;
  std::optional<TimeMs> policy_moved_at;
  NodeId fled_node;    // left for overload …
  TimeMs fled_at = 0;  // … at
  TimeMs move_again_at = 0;
  std::uint32_t move_failures = 0;
  bool stuck_told = false;  // "cannot be moved because", once per episode

  double restore_ms = 0;  // what its last restore took; 0: not known

  // Copies on other nodes; see staging.cc.
  std::map<NodeId, Staged> staged;
  NodeId standby;  // the one that keeps the newest checkpoint for a recovery; empty: none
  std::set<NodeId> standby_excluded;  // those that failed to
  TimeMs standby_retry_at = 0;

  bool checkpoint_asked = false;
  bool checkpoints_failing = false;
  std::vector<RequestId> checkpoint_requests;

  JobId id() const { return r.id; }
  const std::string& name() const { return r.name; }
  bool lives_on(const NodeId& node) const {
    return (r.current && r.current->node == node) || (r.attempt && r.attempt->node == node);
  }
};

// The agent's words, or the kind where it has none.
inline std::string with_kind(FailureKind kind, const std::string& error) {
  return error.empty() ? std::string(to_string(kind)) : error;
}

class Cluster::Impl {
 public:
  Impl(Config config, std::vector<JobRecord> jobs, std::vector<NodeRecord> nodes, TimeMs now);

  std::vector<Output> apply(const Input& input, TimeMs now);
  TimeMs next_deadline() const;

  // ---- index.cc: what would take a look at all jobs or nodes to find
  // The only ways to another incarnation or attempt.
  void set_current(Job& job, std::optional<IncarnationRecord> current);
  void set_attempt(Job& job, std::optional<AttemptRecord> attempt);
  Job& add(Job job);
  void remove(JobId id);
  void note_recovery(const Job& job);
  // Who changes a job's deadlines, or whether it waits, marks it; this is done when it was driven.
  void note_deadline(Job& job);
  void set_lease_end(Node& node, TimeMs end);
  void set_drain_end(Node& node, std::optional<TimeMs> end);
  std::uint32_t jobs_on(const NodeId& id) const;

  // ---- cluster.cc: records and the way of an input
  void advance();  // what is due at now_
  void settle();   // drives marked jobs until nothing changes
  void mark(const Job& job) { marked_.insert(job.id()); }
  void mark_waiting();
  void look_at_waiting();
  void save(const Job& job) { saved_jobs_.insert(job.id()); }
  void save(const Node& node) { saved_nodes_.insert(node.id()); }
  void out(Output output) { outputs_.push_back(std::move(output)); }
  void reply(RequestId request, Status status);
  void tell(const char* kind, const Job* job, const NodeId& node, std::string text,
            CheckpointNumber checkpoint = {});
  Job* find(JobId id);
  Node* find(const NodeId& id);
  const Node* find(const NodeId& id) const;
  NodeState state_of(const Node& node, TimeMs now) const;
  TimeMs lease_term() const;

  // ---- nodes.cc
  void on(const NodeRegistered& input);
  void on(const Heartbeat& input);
  void grant_lease(Node& node);
  void node_lost(Node& node);
  void orders_dropped(Job& job, const Node& node);
  void reconcile(Node& node, const std::vector<IncarnationReport>& reports, bool registering,
                 bool same_epoch, std::vector<IncarnationReport>* kill);
  bool belongs(const Node& node, const IncarnationReport& report);
  void reported_current(Job& job, const IncarnationReport& report, bool registering);
  void reported_attempt(Job& job, const IncarnationReport& report, bool registering);
  void not_reported(Job& job, const Node& node, bool registering, bool same_epoch);

  // ---- incarnations.cc: what became of orders and incarnations
  void on(const OrderDone& input);
  void on(const IncarnationExited& input);
  void on(const Tick&) {}
  void freeze_done(Job& job, const OrderDone& done);
  void resume_done(Job& job, const OrderDone& done);
  void launch_done(Job& job, const OrderDone& done);
  void kill_done(Job& job, const OrderDone& done, bool of_current);
  void own_exit(Job& job, int code);
  void current_gone(Job& job, Cause cause, std::string why, TimeMs last_sign, TimeMs first_sign);
  void attempt_failed(Job& job, FailureKind kind, const std::string& error);
  void attempt_gone(Job& job, std::string why);
  void promote(Job& job, const OrderDone* done);
  void clear_current(Job& job);

  // ---- moves.cc (texts by value: callers pass what these functions clear)
  void drive(Job& job);
  void drive_stop(Job& job);
  void drive_planned(Job& job);
  void send_resume(Job& job);
  void send_attempt(Job& job);
  bool launch(Job& job, const NodeId& node, CheckpointNumber from);  // the only way to an attempt
  void ensure_kill(Job& job, const NodeId& node, Generation generation);
  void finish_move(Job& job, bool ok, std::string error);
  void end(Job& job, JobState state, std::optional<int> code, std::string reason);
  void forget(Job& job);
  void refresh_state(Job& job);
  PlacementRequest wish(const Job& job, Urgency urgency, const NodeId& only,
                        const CheckpointFacts* from) const;
  // Of a planned move that a user wants, or why there can be none.
  Result<PlacementRequest> migration(JobId id, const NodeId& to);
  Placement place_job(const PlacementRequest& request) const {
    return place(request, candidates());
  }
  std::vector<Candidate> candidates() const;

  // ---- staging.cc: copies of checkpoints where they will be needed
  bool finish_rounds(Job& job);  // of a planned move; true: nothing more is to be staged
  void begin_round(Job& job);
  void round_over(Job& job);
  double expected_downtime_ms(const Job& job) const;
  bool may_take_time(const Job& job) const;
  void drive_standby(Job& job);
  void drive_standbys();
  bool recoveries_come_first() const;
  bool may_stand_by(const Job& job, const NodeId& id) const;
  void look_for_standbys(const Node& node);  // it became fit to be one, or unfit
  void stage(Job& job, const NodeId& id, CheckpointNumber number);
  void unstage(Job& job, NodeId id);  // by value: callers pass what this clears
  void unstage_all(Job& job);
  void tell_to_drop(Node& node, JobId job);
  void stage_done(const OrderDone& done);
  void staging_node_gone(Job& job, const NodeId& id);
  void staged_reported(Node& node, const std::vector<StagedReport>& reports, bool registering);

  // ---- recovery.cc
  void drive_start(Job& job);
  void begin_recovery(Job& job, Cause cause, std::string why, TimeMs last_sign, TimeMs first_sign);

  // ---- checkpoints.cc
  void on(const CheckpointCommitted& input);
  void on(const CheckpointReported& input);
  void on(const CheckpointRemoved& input);
  void on(const CheckpointVerified& input);
  void checkpoint_done(Job& job, const OrderDone& done);
  void finish_checkpoint(Job& job, CheckpointNumber number, FailureKind kind,
                         const std::string& error);
  void set_unprotected(Job& job, const std::string& cause, bool preflight);
  void refresh_protection(Job& job);
  void quarantine(Job& job, CheckpointNumber number, const std::string& cause);
  void supersede_after(Job& job, CheckpointNumber from);
  const CheckpointFacts* newest_usable(const Job& job) const;
  const CheckpointFacts* checkpoint(const Job& job, CheckpointNumber number) const;

  // ---- users.cc
  void on(const SubmitJob& input);
  void on(const ImportJob& input);
  Status check_new(const JobRecord& wanted) const;
  void on(const UserMigrate& input);
  void on(const UserRestore& input);
  void on(const UserCheckpoint& input);
  void on(const UserStop& input);
  void on(const UserKill& input);
  void on(const RemoveJob& input);
  void on(const DrainNode& input);
  void on(const CordonNode& input);
  void on(const UncordonNode& input);

  // ---- policies.cc
  void run_policies(Node& node);
  void watch_overload(Node& node);
  void evacuate(Node& node, Cause cause, std::uint32_t parallel);
  void relieve(Node& node);
  void start_move(Job& job, Move move, const std::string& because);
  // On the node, at rest and not known to be impossible to checkpoint (told once, if so).
  bool may_move(Job& job, const Node& node, const std::string& because);
  std::uint32_t moves_from(const Node& node) const;
  void drain_is_over(Node& node);

  Config config_;
  std::map<JobId, Job> jobs_;
  std::map<NodeId, Node> nodes_;
  std::map<std::string, JobId, std::less<>> names_;
  std::set<JobId> waiting_;  // for a node that can take them
  TimeMs waiting_looked_at_ = 0;
  JobId last_waiting_;           // that was looked at
  std::set<JobId> recovering_;   // from a lost node, with an attempt under way
  TimeMs recovering_since_ = 0;  // there are any
  std::set<JobId> held_copies_;  // jobs whose standby waits for that
  // Of each job the next one, if there is any; of each node that is not lost the lease's end.
  std::set<std::pair<TimeMs, JobId>> job_deadlines_;
  std::set<std::pair<TimeMs, NodeId>> lease_ends_;
  std::set<std::pair<TimeMs, NodeId>> drain_ends_;
  TimeMs now_ = 0;
  std::vector<Output> outputs_;
  std::set<JobId> marked_;
  std::set<JobId> driven_;     // whose standbys have not been looked at since
  std::set<JobId> forgotten_;  // to be erased at the end of this apply()
  std::set<JobId> saved_jobs_;
  std::set<NodeId> saved_nodes_;
};

}  // namespace baton::core
