// The controller around the real core, as control/ does it: saved records, orders kept until they
// are answered, streams, uploads, output. Can crash at any time, also between saving and acting.
#pragma once

#include <map>
#include <optional>
#include <set>

#include "core/cluster.h"
#include "world.h"

namespace baton::sim {

struct PendingOrder {
  std::uint64_t id = 0;
  core::Output order;
};

class ControlModel {
 public:
  ControlModel(Kernel& kernel, World& world, core::Config config);

  void start();
  void crash();
  bool up() const { return cluster_.has_value(); }
  // Grows with each start: connections to an earlier life are broken.
  std::uint64_t life() const { return life_; }
  core::Cluster& cluster() { return *cluster_; }

  // What agents call. nullopt: the controller is or went down.
  std::optional<core::AnswerRegister> on_register(const core::NodeRegistered& input);
  std::optional<core::AnswerHeartbeat> on_heartbeat(const core::Heartbeat& input);
  // The number under which it is visible; 0: refused.
  std::optional<CheckpointNumber> on_upload(JobId job, Generation generation,
                                            std::uint64_t upload_id, const Output& output,
                                            bool hold);
  bool on_output(JobId job, Generation generation, const Output& output);
  bool on_exit(const core::IncarnationExited& input, const Output& output);
  bool on_report(const core::CheckpointReported& input);
  void on_result(std::uint64_t order_id, core::OrderDone done);

  // A stream of orders; `deliver` sends one. False: not the registered epoch.
  bool attach(const NodeId& node, const std::string& epoch, std::uint64_t stream,
              std::function<void(const PendingOrder&)> deliver);
  void detach(const NodeId& node);
  // False: a registration has voided it since.
  bool attached(const NodeId& node, std::uint64_t stream) const;

  void apply(const core::Input& input);
  void submit(core::JobRecord record);
  core::RequestId next_request() { return ++last_request_; }
  // Users who were promised a move and have not heard of its end.
  std::size_t awaiting_moves() const { return awaiting_move_.size(); }

  // Everything that was ever accepted and not forgotten; to check against.
  const Output& accepted(JobId job) { return outputs_[job].content; }
  std::uint64_t moves_finished = 0;
  std::uint64_t moves_failed = 0;
  std::map<core::Cause, std::uint64_t> moves_by_cause;
  std::uint64_t quarantined = 0;

 private:
  struct JobOutput {
    Output content;
    Generation writer;
  };
  struct Stream {
    std::string epoch;
    std::uint64_t id = 0;
    std::function<void(const PendingOrder&)> deliver;
  };

  void execute(const core::Output& output);
  void order(const NodeId& node, const core::Output& output);
  void check_counts();
  void schedule_tick();
  core::TimeMs now_ms() const { return kernel_.now() / kMs; }

  Kernel& kernel_;
  World& world_;
  const core::Config config_;
  std::optional<core::Cluster> cluster_;
  std::uint64_t life_ = 0;
  TimeUs tick_at_ = 0;

  // Survives a crash.
  std::map<JobId, core::JobRecord> saved_jobs_;
  std::map<NodeId, core::NodeRecord> saved_nodes_;
  std::map<JobId, JobOutput> outputs_;
  std::map<std::uint64_t, CheckpointNumber> uploads_;
  std::map<JobId, std::uint64_t> last_checkpoint_;
  // Does not.
  std::map<NodeId, std::vector<PendingOrder>> orders_;
  std::map<NodeId, Stream> streams_;
  std::map<NodeId, std::string> epochs_;
  std::uint64_t last_order_ = 0;
  core::RequestId last_request_ = 0;
  std::set<core::RequestId> awaiting_reply_;
  std::set<core::RequestId> awaiting_move_;
  std::optional<core::AnswerRegister> register_answer_;
  std::optional<core::AnswerHeartbeat> heartbeat_answer_;
};

}  // namespace baton::sim
