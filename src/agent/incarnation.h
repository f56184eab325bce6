// One incarnation of a job on this node: its sandbox, its checkpoints, its output, its end.
//
// A worker thread does everything that needs the sandbox, one thing after the other: bringing it
// up, checkpoints, orders. Shipping, preflights and output have threads of their own, which report
// back to the worker. kill() cuts through all of it at any time.
#pragma once

#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <variant>
#include <vector>

#include "agent/checkpoint_schedule.h"
#include "agent/context.h"
#include "agent/fetch.h"
#include "agent/output_shipper.h"
#include "agent/preflight.h"
#include "agent/record.h"

namespace baton::agent {

class Incarnation {
 public:
  struct Start {
    std::uint64_t order_id;
  };
  struct Restore {
    std::uint64_t order_id;
    CheckpointNumber checkpoint;
  };
  struct Adopt {
    std::unique_ptr<Sandbox> sandbox;
  };
  // Has ended while no agent looked, or its end was not acknowledged.
  struct Ended {
    pb::ExitReport report;
  };
  using Origin = std::variant<Start, Restore, Adopt, Ended>;

  // Puts itself on the roster and starts the worker. Older incarnations of the job are ended
  // before anything else is done.
  Incarnation(NodeContext& node, pb::StartOrder order, Origin origin,
              std::vector<std::shared_ptr<Incarnation>> predecessors = {});
  // Leaves the sandbox running and its record on disk, unless the incarnation has ended.
  ~Incarnation();

  JobId job() const { return entry_->job; }
  Generation generation() const { return entry_->generation; }
  pb::IncarnationState state() const { return entry_->state; }
  const pb::JobSpec& spec() const { return order_.spec(); }

  // Orders about this incarnation, executed by the worker in order. Any thread.
  void post(const pb::Order& order);
  // Ends it at once and forgets it. With an order id, that is answered when all is gone.
  void kill(std::optional<std::uint64_t> order_id);
  // The worker is done: nothing of the incarnation is left (or the agent is leaving).
  bool finished() const { return finished_; }
  void wait_finished() const { finished_.wait(false); }

 private:
  struct ShipDone {
    std::uint64_t shipment;
  };
  struct PreflightDone {
    Status status;
  };
  struct Wake {};
  using Event = std::variant<pb::Order, ShipDone, PreflightDone, Wake>;

  // A checkpoint that was taken, on its way to the controller.
  struct Shipment {
    std::uint64_t id = 0;
    CheckpointInfo info;
    pb::Checkpoint description;
    std::filesystem::path directory;
    std::optional<std::uint64_t> order_id;
    std::atomic<bool> superseded = false;
    Result<UploadResult> result = fail(ErrorCode::Cancelled, "not shipped");
    std::thread thread;
  };

  // incarnation.cc: the worker
  void run();
  void live();
  bool handle_events();
  void handle_order(const pb::Order& order);
  void push(Event event);
  std::optional<Event> take();
  void wait(std::int64_t timeout_ms);
  bool sandbox_ended() const;
  void answer(std::uint64_t order_id, const Status& status, pb::OrderResult result = {});
  void take_sandbox(std::unique_ptr<Sandbox> sandbox);
  std::string name() const;

  // incarnation_start.cc: bringing up
  Status bring_up();
  void end_predecessors();
  Status start_fresh();
  Status restore();
  Result<Fetched> fetch(CheckpointNumber number);
  Status restore_from(const LocalCopy& copy, pb::OrderResult& result);
  Status check_ready() const;
  Status begin_living();

  // incarnation_checkpoint.cc
  void checkpoint(const char* cause, std::optional<std::uint64_t> order_id);
  void checkpoint_failed(const Error& error, std::optional<std::uint64_t> order_id);
  void ship(CheckpointInfo info, std::filesystem::path directory, const char* cause,
            std::optional<std::uint64_t> order_id);
  Result<UploadResult> upload(Shipment& shipment, bool hold,
                              const std::function<Status()>& confirm = {});
  void finish_shipment(bool supersede);
  void committed(Shipment& shipment, bool may_preflight);
  pb::Checkpoint describe(const CheckpointInfo& info, const char* cause) const;
  void maybe_preflight(const CheckpointInfo& info, std::shared_ptr<LocalCopy> copy);
  void preflight_done(const Status& status);
  void report(const pb::CheckpointReport& report);
  std::string dump_log_tail() const;
  std::filesystem::path next_directory();

  // incarnation_hold.cc
  void freeze(const pb::Order& order);
  HoldVerdict hold(std::uint64_t order_id, const HeldCheckpoint& held,
                   const std::filesystem::path& directory);
  HoldVerdict await_release();
  Status ship_held(const HeldCheckpoint& held, const std::filesystem::path& directory);

  // incarnation_end.cc
  void end();
  void stop_helpers();
  void last_words();
  pb::ExitReport exit_report();
  bool deliver_exit(pb::ExitReport report);
  bool ship_last_output(pb::ExitReport& report);
  void remove_all();
  void broken(const Error& error);

  NodeContext& node_;
  const pb::StartOrder order_;
  Origin origin_;
  std::vector<std::shared_ptr<Incarnation>> predecessors_;
  const std::shared_ptr<RosterEntry> entry_;
  const Record record_;

  // The worker's own.
  bool up_ = false;
  std::shared_ptr<Sandbox> sandbox_;
  std::unique_ptr<OutputShipper> output_;
  std::optional<CheckpointSchedule> schedule_;
  std::unique_ptr<Shipment> shipment_;
  std::uint64_t shipments_begun_ = 0;
  std::uint64_t checkpoints_taken_ = 0;
  bool failure_reported_ = false;
  std::string known_shape_;
  std::unique_ptr<Preflight> preflight_;
  std::thread preflight_thread_;
  std::int64_t preflight_not_before_ms_ = 0;
  std::int64_t preflight_pause_ms_ = 0;
  bool preflight_wanted_ = true;
  std::vector<std::uint64_t> releases_;  // release orders to answer once the hold is over
  bool hold_answered_ = false;
  UploadResult held_upload_;
  bool moved_away_ = false;  // released: it runs elsewhere now
  std::string broken_detail_;

  Fd wake_;
  CancelToken cancel_;

  mutable std::mutex mutex_;  // guards what follows
  std::deque<Event> events_;
  std::shared_ptr<Sandbox> killable_;
  std::vector<std::uint64_t> kill_orders_;
  std::thread killer_;
  bool killed_ = false;
  bool leaving_ = false;

  std::atomic<bool> finished_ = false;
  std::thread thread_;
};

// What the controller is told of an incarnation that ended so.
pb::ExitReport make_exit_report(const pb::StartOrder& order, const SandboxExit& exit);

// "job 7 (name) generation 2"
std::string describe(const pb::StartOrder& order);

}  // namespace baton::agent
