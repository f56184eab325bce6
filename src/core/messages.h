// What the core is told and what it answers.
//
// Conventions between core, control and agents, on which promise 1 rests:
//  - Control hands an order to a node's stream only if the stream's epoch is the one of the last
//    accepted NodeRegistered. It keeps every order until its result, and sends those without one
//    again, in their first order, when the same epoch attaches again. DropOrders voids them all:
//    they are never delivered afterwards and a late result is not passed on.
//  - An agent executes the orders for one job in the order in which they came, takes a repeated
//    order for one, and closes its old stream before it composes the list of a registration.
//  - Kill is final for its generation and answered with success also when nothing was there.
//  - An agent never lets a held incarnation run without Release{kill = false}.
#pragma once

#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "base/result.h"
#include "core/records.h"
#include "core/types.h"

namespace baton::core {

// Chosen by control, echoed in Reply, MoveFinished and CheckpointFinished. 0: nobody waits.
using RequestId = std::uint64_t;

// ------------------------------------------------------------------ inputs: agents

// Answered by AnswerRegister, in the same apply().
struct NodeRegistered {
  NodeFacts facts;
  std::string epoch;
  std::string boot_id;  // empty: unknown
  std::vector<IncarnationReport> incarnations;
  std::vector<StagedReport> staged;
};
// Answered by AnswerHeartbeat, in the same apply().
struct Heartbeat {
  NodeId node;
  std::string epoch;
  NodeSample sample;
  std::vector<IncarnationReport> incarnations;
  std::vector<StagedReport> staged;
};
// The result of an order, found by its id. For those that were not dropped only.
struct OrderDone {
  OrderKind kind = OrderKind::Start;
  JobId job;
  Generation generation;
  NodeId node;
  FailureKind failure = FailureKind::None;
  std::string error;
  std::string log_tail;
  CheckpointNumber checkpoint;  // of checkpoint and freeze; of stage, whatever came of it
  double frozen_for_ms = 0;     // freeze
  double fetch_ms = 0;          // restore, stage
  double restore_ms = 0;
  double running_for_ms = 0;        // start, restore
  std::uint64_t fetched_bytes = 0;  // stage
  double memory_ms = 0;             // stage: of awaiting the memory, which no freeze does
};
// A checkpoint is durable and verified. Only to be committed while standing() says Current.
// Comes before the OrderDone of the order that caused it.
struct CheckpointCommitted {
  JobId job;
  Generation generation;
  CheckpointFacts facts;
  bool hold = false;
};
// An agent's CheckpointReport: failure None means that all is well again.
struct CheckpointReported {
  JobId job;
  Generation generation;
  FailureKind failure = FailureKind::None;
  std::string error;
  std::string log_tail;
  bool preflight = false;  // None: `checkpoint` is proven to restore
  CheckpointNumber checkpoint;
};
// Retention or the user deleted it. Never one for which checkpoint_in_use() is true.
struct CheckpointRemoved {
  JobId job;
  CheckpointNumber number;
};
// All its bytes were compared with their hashes.
struct CheckpointVerified {
  JobId job;
  CheckpointNumber number;
  bool damaged = false;
  std::string damage;  // in one line
};
struct IncarnationExited {
  JobId job;
  Generation generation;
  int code = 0;
  ExitCause cause = ExitCause::Lost;
  std::string detail;
};

// ------------------------------------------------------------------ inputs: users
// Each is answered by one Reply in the same apply(); an error there has changed nothing.

// `job` with the submitter's fields set. Id and name must be new.
struct SubmitJob {
  RequestId request = 0;
  JobRecord job;
};
// A job that another cluster ran, with the checkpoints it left there and the submitter's fields.
// Stopped until a user restores it.
struct ImportJob {
  RequestId request = 0;
  JobRecord job;
};
// Past one of them a move is given up, which leaves the job where it was. 0: none.
struct MoveLimits {
  std::uint32_t deadline_ms = 0;      // from the request until the job runs on the target
  std::uint32_t max_downtime_ms = 0;  // looked at before the freeze (expected) and once in it
};
// Reply, then MoveFinished.
struct UserMigrate {
  RequestId request = 0;
  JobId job;
  NodeId to;
  MoveLimits limits;
};
// Rolls a job that runs back, revives one that has ended. 0: the newest. Reply, then MoveFinished.
struct UserRestore {
  RequestId request = 0;
  JobId job;
  CheckpointNumber checkpoint;
  NodeId to;
};
// Reply, then CheckpointFinished.
struct UserCheckpoint {
  RequestId request = 0;
  JobId job;
};
struct UserStop {
  RequestId request = 0;
  JobId job;
  std::uint32_t grace_ms = 10'000;
};
struct UserKill {
  RequestId request = 0;
  JobId job;
  int signal = 9;
};
// Without force: only a job that has ended. With: ends it first. ForgetJob follows.
struct RemoveJob {
  RequestId request = 0;
  JobId job;
  bool force = false;
};
// `deadline_ms` 0: it lasts until it is cancelled. Else, what has not left the node by then stays,
// and the node is cordoned. A restart of the controller forgets the deadline, not the drain.
struct DrainNode {
  RequestId request = 0;
  NodeId node;
  bool cancel = false;
  std::uint32_t deadline_ms = 0;
};
struct CordonNode {
  RequestId request = 0;
  NodeId node;
};
// Also ends a drain.
struct UncordonNode {
  RequestId request = 0;
  NodeId node;
};

struct Tick {};

using Input =
    std::variant<NodeRegistered, Heartbeat, OrderDone, CheckpointCommitted, CheckpointReported,
                 CheckpointRemoved, CheckpointVerified, IncarnationExited, SubmitJob, ImportJob,
                 UserMigrate, UserRestore, UserCheckpoint, UserStop, UserKill, RemoveJob, DrainNode,
                 CordonNode, UncordonNode, Tick>;

// ------------------------------------------------------------------ outputs: records
// All of one apply() are saved in one transaction before any other output is executed.

struct SaveJob {
  JobId job;
};
struct SaveNode {
  NodeId node;
};
// The job is gone: its record, checkpoints and output may be deleted.
struct ForgetJob {
  JobId job;
};
// Never chosen by the core again; stays listed with its cause.
struct QuarantineCheckpoint {
  JobId job;
  CheckpointNumber number;
  std::string cause;
};
// Cut the job's output to `bytes` (leave it, if it is shorter) and accept that of exactly this
// generation from now on. Emitted before the order it belongs to, and only when no other
// incarnation can be writing.
struct RollBackOutput {
  JobId job;
  Generation generation;
  std::uint64_t bytes = 0;
};

// ------------------------------------------------------------------ outputs: agents

struct StartIncarnation {
  NodeId node;
  JobId job;
  Generation generation;
};
struct RestoreIncarnation {
  NodeId node;
  JobId job;
  Generation generation;
  CheckpointNumber checkpoint;
};
struct FreezeIncarnation {
  NodeId node;
  JobId job;
  Generation generation;
};
struct ReleaseIncarnation {
  NodeId node;
  JobId job;
  Generation generation;
  bool kill = false;
};
struct KillIncarnation {
  NodeId node;
  JobId job;
  Generation generation;
};
struct SignalIncarnation {
  NodeId node;
  JobId job;
  Generation generation;
  int signal = 0;
};
struct TakeCheckpoint {
  NodeId node;
  JobId job;
  Generation generation;
};
// Keep a copy of the checkpoint ready to be restored, instead of any other of that job; 0: let it
// go. The only order that is about no incarnation; those for one job are executed in their order.
struct StageCheckpoint {
  NodeId node;
  JobId job;
  CheckpointNumber checkpoint;
  bool await_memory = false;  // done when its memory is decompressed, too, within some seconds
};
// All orders to the node that have no result are void. Emitted before any new one to it.
struct DropOrders {
  NodeId node;
};
struct AnswerRegister {
  NodeId node;
  std::string refused;  // not empty: not registered, and why (Unavailable)
  std::uint32_t lease_ms = 0;
  std::vector<IncarnationReport> kill;  // superseded ones, to be ended at once
};
struct AnswerHeartbeat {
  NodeId node;
  bool renewed = false;  // false: register again
  std::uint32_t lease_ms = 0;
};

// ------------------------------------------------------------------ outputs: people

struct EmitEvent {
  std::string kind;  // see events.h
  JobId job;         // 0: none
  NodeId node;       // empty: none
  std::string text;  // one line: who, what, why
  std::optional<MoveTiming> timing;
  CheckpointNumber checkpoint;  // 0: none
};
struct Reply {
  RequestId request = 0;
  Status status;
};
// The end of every move, whoever asked for it; `requests` may be empty.
struct MoveFinished {
  JobId job;
  MoveTiming timing;
  std::vector<RequestId> requests;
};
struct CheckpointFinished {
  JobId job;
  CheckpointNumber number;  // 0: failed
  FailureKind failure = FailureKind::None;
  std::string error;
  std::vector<RequestId> requests;
};

using Output = std::variant<SaveJob, SaveNode, ForgetJob, QuarantineCheckpoint, RollBackOutput,
                            StartIncarnation, RestoreIncarnation, FreezeIncarnation,
                            ReleaseIncarnation, KillIncarnation, SignalIncarnation, TakeCheckpoint,
                            StageCheckpoint, DropOrders, AnswerRegister, AnswerHeartbeat, EmitEvent,
                            Reply, MoveFinished, CheckpointFinished>;

}  // namespace baton::core
