#include "control/blocking_call.h"

namespace baton::control {

Status CallGroup::enter(const std::string& who) {
  std::lock_guard lock(mutex_);
  if (stop_.stop_requested()) return fail(ErrorCode::Unavailable, "the controller is stopping");
  if (!who.empty()) {
    const auto theirs = threads_of_.find(who);
    if (theirs != threads_of_.end() && theirs->second >= kMostThreadsOfOne)
      return fail(ErrorCode::FailedPrecondition,
                  fmt::format("{} has {} calls under way, the most that one may have; end some",
                              who, theirs->second));
    if (threads_ >= kMostThreads)
      return fail(ErrorCode::FailedPrecondition,
                  fmt::format("the controller has {} calls under way, the most that it answers at "
                              "a time; try again later",
                              threads_));
    ++threads_of_[who];
  }
  ++threads_;
  ++running_;
  return {};
}

void CallGroup::leave(const std::string& who) {
  std::lock_guard lock(mutex_);
  if (const auto theirs = threads_of_.find(who);
      theirs != threads_of_.end() && --theirs->second == 0)
    threads_of_.erase(theirs);
  --threads_;
  --running_;
  idle_.notify_all();
}

}  // namespace baton::control
