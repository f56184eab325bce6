// The kinds of events the core emits. Stable: users filter on them.
#pragma once

namespace baton::core::event {

inline constexpr const char* kJobSubmitted = "job-submitted";
inline constexpr const char* kJobImported = "job-imported";
inline constexpr const char* kJobPending = "job-pending";
inline constexpr const char* kJobStarted = "job-started";
inline constexpr const char* kJobExited = "job-exited";
inline constexpr const char* kJobStopped = "job-stopped";
inline constexpr const char* kJobFailed = "job-failed";
inline constexpr const char* kJobRestart = "job-restart";
inline constexpr const char* kJobRemoved = "job-removed";
inline constexpr const char* kRecordsLost = "records-lost";  // the controller's own
inline constexpr const char* kUser = "user";                 // what a user asked for
inline constexpr const char* kCheckpoint = "checkpoint";
inline constexpr const char* kCheckpointFailed = "checkpoint-failed";
inline constexpr const char* kQuarantined = "checkpoint-quarantined";
inline constexpr const char* kDamaged = "checkpoint-damaged";  // found by reading it
inline constexpr const char* kProtected = "protected";
inline constexpr const char* kUnprotected = "unprotected";
inline constexpr const char* kDecide = "decide";           // a move begins, and why
inline constexpr const char* kStaged = "staged";           // a checkpoint is ready on another node
inline constexpr const char* kFrozen = "frozen";           // the source of a move stands still
inline constexpr const char* kMove = "move";               // finished; carries its timing
inline constexpr const char* kMoveFailed = "move-failed";  // likewise
inline constexpr const char* kRestoreFailed = "restore-failed";  // one attempt of a recovery
inline constexpr const char* kNoTarget = "no-target";
inline constexpr const char* kIncarnationLost = "incarnation-lost";
inline constexpr const char* kNodeUp = "node-up";
inline constexpr const char* kNodeLost = "node-lost";
inline constexpr const char* kNodeDrain = "node-drain";
inline constexpr const char* kNodeDrained = "node-drained";
inline constexpr const char* kDrainOver = "drain-over";  // by its deadline
inline constexpr const char* kNodeCordon = "node-cordon";
inline constexpr const char* kNodeUncordon = "node-uncordon";
inline constexpr const char* kOverload = "overload";
inline constexpr const char* kOverloadOver = "overload-over";
inline constexpr const char* kAboutToFail = "about-to-fail";

}  // namespace baton::core::event
