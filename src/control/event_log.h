// What happened, for people: the newest events in memory, bounded, followed by any number of
// readers. Thread-safe.
#pragma once

#include <condition_variable>
#include <deque>
#include <mutex>
#include <stop_token>
#include <vector>

#include "base/result.h"
#include "wire/baton.pb.h"

namespace baton::control {

class EventLog {
 public:
  static constexpr std::size_t kKept = 10'000;

  // What an earlier process recorded, oldest first. Before the first append().
  void load(std::vector<v1::Event> events);
  // Only one thread appends. The event gets next_sequence(), and the time if it has none.
  void append(v1::Event event);
  std::uint64_t next_sequence() const;

  // Events after `after`, oldest first, at most `limit`; job_id 0: of all jobs. `after` moves past
  // what was looked at. With wait, blocks until there is one; Cancelled when stop is requested.
  Result<std::vector<v1::Event>> read(std::uint64_t& after, std::uint64_t job_id, bool wait,
                                      std::size_t limit, std::stop_token stop) const;

 private:
  mutable std::mutex mutex_;
  mutable std::condition_variable_any changed_;
  std::deque<v1::Event> events_;
  std::uint64_t next_sequence_ = 1;
};

}  // namespace baton::control
