// Many simulated agents with an identity each.
#pragma once

#include <deque>
#include <filesystem>
#include <mutex>
#include <thread>

#include "base/result.h"
#include "cluster/process.h"
#include "cluster/sim_agent.h"
#include "wire/identity.pb.h"

namespace baton::bench {

// A connection for somebody who has not been in before: makes a token as the administrator of the
// controller's machine, and spends it.
Result<wire::Dialer> join(const ControllerProcess& controller, v1::IdentityKind kind,
                          const std::string& name, const std::string& address,
                          const std::filesystem::path& identity);

class Fleet {
 public:
  // Joins them one by one; none is started.
  static Result<std::unique_ptr<Fleet>> join(const ControllerProcess& controller, int agents,
                                             const std::filesystem::path& identities);
  ~Fleet();
  Fleet(const Fleet&) = delete;
  Fleet& operator=(const Fleet&) = delete;

  // Some more each second, so that not all of them connect at once; then each has a turn per
  // second, evenly spread.
  void start();
  AgentFigures& figures() { return figures_; }
  // How many have a lease that was asked for after this moment of boot time.
  std::size_t renewed_since(std::int64_t ns) const;
  // By how much turns began too late since the last call of this: how busy the machine is.
  std::vector<double> take_late_ms();

 private:
  Fleet() = default;
  void pace(std::stop_token stop);

  AgentFigures figures_;
  std::deque<SimAgent> agents_;
  std::mutex late_mutex_;
  std::vector<double> late_ms_;
  std::jthread pacer_;
};

}  // namespace baton::bench
