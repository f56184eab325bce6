// Tells one sandbox of the lease's renewals, on a thread of its own: a pid 1 that does not answer
// (stopped, swapped out) must not hold up the renewals of the others.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>

#include "agent/sandbox.h"

namespace baton::agent {

class LeaseRelay {
 public:
  explicit LeaseRelay(std::shared_ptr<Sandbox> sandbox);
  ~LeaseRelay();
  LeaseRelay(const LeaseRelay&) = delete;
  LeaseRelay& operator=(const LeaseRelay&) = delete;

  // Returns at once. Only the newest deadline is passed on.
  void renew(std::int64_t deadline_boot_ns);

 private:
  void loop();

  const std::shared_ptr<Sandbox> sandbox_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::int64_t deadline_ns_ = 0;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace baton::agent
