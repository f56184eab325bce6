// Runs health commands on the node. One that fails so many times in a row means that the node is
// about to fail; one success takes that back.
#pragma once

#include <chrono>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/result.h"

namespace baton::agent {

struct HealthCheck {
  std::string command;  // for sh -c
  std::chrono::milliseconds interval{10'000};
  std::uint32_t failures = 3;

  friend auto operator<=>(const HealthCheck&, const HealthCheck&) = default;
};

// How a verdict follows from results. No clock, no processes.
class HealthVerdict {
 public:
  explicit HealthVerdict(std::uint32_t failures) : failures_(failures) {}
  void succeeded() { in_a_row_ = 0; }
  void failed(std::string cause) {
    ++in_a_row_;
    cause_ = std::move(cause);
  }
  // The cause of the last failure once there were enough of them.
  std::optional<std::string> about_to_fail() const {
    if (failures_ == 0 || in_a_row_ < failures_) return std::nullopt;
    return cause_;
  }

 private:
  const std::uint32_t failures_;
  std::uint32_t in_a_row_ = 0;
  std::string cause_;
};

// Exit code 0 within `limit`; else why not ("exit code 2: disk sda is failing"). Everything that
// the command started in its process group is killed. Cancelled: `stop_fd` became readable.
Status run_health_command(const std::string& command, std::chrono::milliseconds limit,
                          int stop_fd = -1);

class HealthMonitor {
 public:
  HealthMonitor();
  ~HealthMonitor();

  // The checks that are wanted from now on; those that stay go on undisturbed, the others are
  // broken off.
  void set_checks(std::vector<HealthCheck> checks);
  // Somebody knows already, such as who gives notice that the machine will be taken away. Not taken
  // back.
  void announce(std::string cause);
  // Any thread, never blocks for long.
  std::optional<std::string> about_to_fail() const;

 private:
  class Runner;
  mutable std::mutex mutex_;
  std::map<HealthCheck, std::unique_ptr<Runner>> runners_;
  std::optional<std::string> announced_;
};

}  // namespace baton::agent
