#include "core/types.h"

namespace baton::core {

std::string_view to_string(Cause cause) {
  switch (cause) {
    case Cause::User: return "user";
    case Cause::CpuOverload: return "cpu-overload";
    case Cause::MemoryPressure: return "memory-pressure";
    case Cause::NodeLost: return "node-lost";
    case Cause::Drain: return "drain";
    case Cause::AboutToFail: return "about-to-fail";
    case Cause::Restart: return "restart";
    case Cause::Accident: return "checkpoint-accident";
  }
  return "unknown";
}

std::string_view to_string(FailureKind kind) {
  switch (kind) {
    case FailureKind::None: return "none";
    case FailureKind::Internal: return "internal error";
    case FailureKind::Invalid: return "invalid";
    case FailureKind::UnfitNode: return "unfit node";
    case FailureKind::DamagedCheckpoint: return "damaged checkpoint";
    case FailureKind::Refused: return "refused";
    case FailureKind::NoSpace: return "no space";
    case FailureKind::Stale: return "stale generation";
    case FailureKind::BrokenIncarnation: return "broken incarnation";
  }
  return "unknown";
}

std::string_view to_string(JobState state) {
  switch (state) {
    case JobState::Pending: return "pending";
    case JobState::Starting: return "starting";
    case JobState::Running: return "running";
    case JobState::Migrating: return "migrating";
    case JobState::Recovering: return "recovering";
    case JobState::Stopping: return "stopping";
    case JobState::Exited: return "exited";
    case JobState::Stopped: return "stopped";
    case JobState::Failed: return "failed";
  }
  return "unknown";
}

std::string_view to_string(ExitCause cause) {
  switch (cause) {
    case ExitCause::Exited: return "exited";
    case ExitCause::Fenced: return "fenced";
    case ExitCause::Killed: return "killed";
    case ExitCause::Lost: return "lost";
  }
  return "unknown";
}

std::string_view to_string(OrderKind kind) {
  switch (kind) {
    case OrderKind::Start: return "start";
    case OrderKind::Restore: return "restore";
    case OrderKind::Kill: return "kill";
    case OrderKind::Signal: return "signal";
    case OrderKind::Checkpoint: return "checkpoint";
    case OrderKind::Freeze: return "freeze";
    case OrderKind::Release: return "release";
    case OrderKind::Stage: return "stage";
  }
  return "unknown";
}

}  // namespace baton::core
