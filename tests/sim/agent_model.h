// One node: its machine, its agent process, its sandboxes, and the network between it and the
// controller. Follows the conventions of core/messages.h and is unlucky in every other way.
#pragma once

#include <deque>
#include <map>
#include <set>

#include "control_model.h"

namespace baton::sim {

struct AgentTraits {
  double clock_rate = 1;
  bool lists_ended = true;  // an ended incarnation stays listed until its exit was reported
  double cpu = 0.1;         // utilization that it reports
  bool about_to_fail = false;
};

class AgentModel {
 public:
  AgentModel(Kernel& kernel, World& world, ControlModel& control, NodeId id,
             const core::Config& config, AgentTraits traits);

  void start_process();             // the agent, on a machine that is up
  void crash_process();             // kill -9 of the agent alone
  void pause_process(TimeUs time);  // SIGSTOP … SIGCONT
  void cut_power();
  void power_on();
  void partition(bool on);
  const std::map<JobId, CheckpointNumber>& staged() const { return staged_; }
  const NodeId& id() const { return id_; }
  bool alive() const { return powered_ && running_; }

  AgentTraits traits;

 private:
  using Key = std::pair<JobId, Generation>;

  double local_us() const { return static_cast<double>(kernel_.now()) * traits.clock_rate; }
  TimeUs message_delay();
  // Runs `what` in this agent process, now or when it is continued; never in another one.
  void in_process(std::function<void()> what);
  void after(TimeUs delay, std::function<void()> what);
  // A unary call. `call` runs at the controller, `done` here with its answer; `failed` here if
  // there was none in time.
  template <typename Answer>
  void call(std::function<std::optional<Answer>()> at_controller, std::function<void(Answer)> done,
            std::function<void()> failed);

  void register_again();
  void heartbeat();
  void attach();
  void break_stream();
  void set_lease(double deadline_local_us);
  std::vector<core::IncarnationReport> list() const;

  void handle(const PendingOrder& order);
  void launch(std::uint64_t id, JobId job, Generation generation, CheckpointNumber from);
  void launched(const SandboxPtr& sandbox, CheckpointNumber from);
  void freeze(std::uint64_t id, Key key, bool hold);
  void frozen(std::uint64_t id, const SandboxPtr& sandbox, bool hold, int attempts);
  void release(std::uint64_t id, Key key, bool kill);
  void stage(std::uint64_t id, JobId job, CheckpointNumber number);
  void stage_next(JobId job);
  std::vector<core::StagedReport> list_staged() const;
  void kill(Key key);
  void signal(Key key, int number);
  void answer(std::uint64_t id, core::OrderKind kind, Key key,
              core::FailureKind failure = core::FailureKind::None, CheckpointNumber number = {});
  void send_result(std::uint64_t id);

  void watch_lease(const SandboxPtr& sandbox);
  void live(const SandboxPtr& sandbox);  // checkpoints, prints, perhaps ends
  void end(const SandboxPtr& sandbox, core::ExitCause cause, int code);
  void report_exit(const SandboxPtr& sandbox);
  void ship_output(const SandboxPtr& sandbox);
  SandboxPtr find(Key key) const;

  Kernel& kernel_;
  World& world_;
  ControlModel& control_;
  const NodeId id_;
  const core::Config config_;

  bool powered_ = true;
  bool running_ = false;
  bool partitioned_ = false;
  std::uint64_t process_ = 0;  // grows with each start of the agent
  std::uint64_t boot_ = 1;
  TimeUs paused_until_ = 0;

  // On the disk: survives a power cut.
  std::map<JobId, CheckpointNumber> staged_;

  // On the machine: survives the agent process.
  std::map<Key, SandboxPtr> sandboxes_;
  std::map<Key, SandboxPtr> unreported_;

  // In the agent process.
  bool registered_ = false;
  bool registering_ = false;
  double lease_local_us_ = 0;
  std::uint64_t stream_ = 0;  // 0: none
  std::uint64_t last_stream_ = 0;
  TimeUs down_free_at_ = 0;  // streams keep their order
  TimeUs up_free_at_ = 0;
  struct Result {
    core::OrderDone done;
  };
  std::map<std::uint64_t, Result> answered_;
  std::set<std::uint64_t> accepted_;
  std::map<Key, std::vector<std::uint64_t>> launch_waiters_;
  std::map<Key, std::vector<std::uint64_t>> freeze_waiters_;
  std::set<Key> killed_;
  std::map<JobId, std::deque<std::pair<std::uint64_t, CheckpointNumber>>> staging_;
  std::uint64_t next_upload_ = 0;
};

}  // namespace baton::sim
