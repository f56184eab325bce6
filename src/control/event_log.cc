#include "control/event_log.h"

#include <algorithm>

#include "base/clock.h"

namespace baton::control {

void EventLog::load(std::vector<v1::Event> events) {
  std::lock_guard lock(mutex_);
  events_.assign(std::make_move_iterator(events.begin()), std::make_move_iterator(events.end()));
  if (!events_.empty()) next_sequence_ = events_.back().sequence() + 1;
}

void EventLog::append(v1::Event event) {
  std::lock_guard lock(mutex_);
  event.set_sequence(next_sequence_++);
  if (event.at_wall_ms() == 0) event.set_at_wall_ms(wall_time_ms());
  events_.push_back(std::move(event));
  if (events_.size() > kKept) events_.pop_front();
  changed_.notify_all();
}

std::uint64_t EventLog::next_sequence() const {
  std::lock_guard lock(mutex_);
  return next_sequence_;
}

Result<std::vector<v1::Event>> EventLog::read(std::uint64_t& after, std::uint64_t job_id, bool wait,
                                              std::size_t limit, std::stop_token stop) const {
  std::vector<v1::Event> found;
  std::unique_lock lock(mutex_);
  auto look = [&] {
    auto next = std::ranges::upper_bound(events_, after, {}, &v1::Event::sequence);
    for (; next != events_.end() && found.size() < limit; ++next) {
      after = next->sequence();
      if (job_id == 0 || next->job_id() == job_id) found.push_back(*next);
    }
    return !found.empty();
  };
  if (look() || !wait) return found;
  changed_.wait(lock, stop, look);
  if (stop.stop_requested()) return fail(ErrorCode::Cancelled, "cancelled");
  return found;
}

}  // namespace baton::control
