// The controller's heart. It owns the State behind one lock and sees to the order of things:
//
//   an input is applied to the core  ->  what changed is saved, all or none  ->  only then do
//   orders leave, answers return, output is cut back, and people are told
//
// Inputs are applied under the lock by whoever brings them, which never waits for a disk, so lease
// renewals and expiries are judged by the same core in one order, quickly. Saving is done by one
// thread, in the order of the inputs, several in one transaction when the disk is slower than
// they come. What can't be saved (a full disk) holds everything behind it back, and those who wait
// are told; leases go on being renewed.
//
// Thread-safe. The stores outlive the loop.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <stop_token>
#include <thread>
#include <variant>

#include "control/ballast.h"
#include "control/cleaner.h"
#include "control/event_log.h"
#include "control/output_log.h"
#include "control/state.h"
#include "store/checkpoint_store.h"

namespace baton::control {

// What is done once the changes it came with are saved.
struct AllowOrder {
  NodeId node;
  std::uint64_t order_id = 0;
};
struct JobChanged {
  JobId job;
};
struct JobForgotten {
  JobId job;
};
struct CheckpointVisible {
  JobId job;
  std::uint64_t output_bytes = 0;
};
struct DeleteCheckpoint {
  JobId job;
  CheckpointNumber number;
};
using Action =
    std::variant<AllowOrder, JobChanged, JobForgotten, CheckpointVisible, DeleteCheckpoint,
                 core::RollBackOutput, core::MoveFinished, core::CheckpointFinished>;

// Everything up to a ticket is saved together or before.
using Ticket = std::uint64_t;

class Loop {
 public:
  struct Stores {
    StateDb& db;
    store::CheckpointStore& checkpoints;
    OutputLogs& logs;
    EventLog& events;
    Ballast& ballast;
  };

  Loop(State state, Stores stores);
  ~Loop();  // stops its threads; what is unsaved stays so
  Loop(const Loop&) = delete;
  Loop& operator=(const Loop&) = delete;

  struct Applied {
    Ticket ticket = 0;
    std::optional<core::AnswerRegister> registered;
    std::optional<core::AnswerHeartbeat> heartbeat;
    Status reply;  // to a user's request; an error has changed nothing
  };
  // What the caller of apply() wants saved and done together with the core's own.
  struct Extra {
    Changes changes;
    std::vector<Action> actions;
  };

  // The state while it is locked. Lives only within with_lock().
  class Locked {
   public:
    State& state;
    const core::TimeMs now;
    Applied apply(const core::Input& input, Extra extra = {});

   private:
    friend class Loop;
    Locked(Loop& loop, core::TimeMs time) : state(loop.state_), now(time), loop_(loop) {}
    Loop& loop_;
  };
  template <typename Function>
  auto with_lock(Function&& function) {
    Links::Roused roused;  // told once the lock is free
    std::lock_guard lock(mutex_);
    const TakeRoused last{state_.links, roused};
    Locked locked(*this, advance_time());
    return function(locked);
  }

  // Ok once everything up to the ticket is saved. NoSpace (or what else is wrong with the disk)
  // if that failed for now; it is tried again. Cancelled.
  Status wait_saved(Ticket ticket, std::stop_token stop);
  // NoSpace when a decision could hardly be saved: ask before letting a user change something.
  Status check_room(std::uint64_t bytes = 0) const;

  // Waits under the lock until `predicate(Locked&)`, looked at whenever something has been saved.
  // False: stop was requested or the deadline passed.
  bool wait(std::stop_token stop, std::optional<core::TimeMs> deadline_boot_ms,
            const std::function<bool(Locked&)>& predicate);
  // Returns when what has been decided to be deleted is deleted. Cancelled.
  Status wait_cleaned(std::stop_token stop);

  // The answers that the core gives to one user's request. Forgotten with the object.
  class Request {
   public:
    explicit Request(Loop& loop);
    ~Request();
    Request(const Request&) = delete;
    Request& operator=(const Request&) = delete;
    core::RequestId id() const { return id_; }
    Result<core::MoveFinished> wait_move(std::stop_token stop);
    Result<core::CheckpointFinished> wait_checkpoint(std::stop_token stop);

   private:
    Loop& loop_;
    core::RequestId id_ = 0;
  };

  Stores& stores() { return stores_; }

 private:
  struct Batch {
    Ticket ticket = 0;
    Changes changes;
    std::vector<Action> actions;
  };
  struct Answers {
    std::optional<core::MoveFinished> move;
    std::optional<core::CheckpointFinished> checkpoint;
  };
  class Recorder;
  struct TakeRoused {
    Links& links;
    Links::Roused& into;
    ~TakeRoused() { links.take_roused(into); }
  };

  core::TimeMs advance_time();
  void save_loop(std::stop_token stop);
  void tick_loop(std::stop_token stop);
  Status save(Changes& changes);
  bool save_until_done(Changes& changes, Ticket last, std::stop_token stop);
  void execute(const AllowOrder& action);
  void execute(const JobChanged& action);
  void execute(const JobForgotten& action);
  void execute(const CheckpointVisible& action);
  void execute(const DeleteCheckpoint& action);
  void execute(const core::RollBackOutput& action);
  void execute(const core::MoveFinished& action);
  void execute(const core::CheckpointFinished& action);
  void follow_job(JobId job);
  bool wait_for_answer(std::stop_token stop, core::RequestId id,
                       const std::function<bool(const Answers&)>& ready);

  Stores stores_;
  Cleaner cleaner_;
  mutable std::mutex mutex_;
  std::condition_variable_any saved_;     // something was saved, or could not be
  std::condition_variable_any unsaved_;   // there is something to save
  std::condition_variable_any deadline_;  // the next deadline is earlier than it was
  State state_;
  core::TimeMs last_time_ = 0;
  core::TimeMs ticking_at_ = 0;
  std::deque<Batch> pending_;
  Ticket last_ticket_ = 0;
  Ticket saved_through_ = 0;
  Ticket failed_through_ = 0;
  std::optional<Error> save_error_;
  core::RequestId next_request_ = 1;
  std::map<core::RequestId, Answers> answers_;
  std::jthread saver_;
  std::jthread ticker_;
};

}  // namespace baton::control
