// Keeps the node's lease: registers, sends heartbeats, and hands each renewal to the sandboxes.
//
// The lease runs from the moment a registration or a heartbeat was SENT, on this node's boot-time
// clock; only the answer that it is granted or renewed extends it. Pid 1 of each sandbox holds the
// deadline and ends everything when it passes, whatever happens to this process.
//
// The thread shares no lock with slow work, touches no disk and does not log: what others should
// know of goes into notices, which the owner takes when `notice_fd` is readable.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "agent/roster.h"
#include "base/fd.h"
#include "base/result.h"
#include "wire/baton.pb.h"
#include "wire/channel.h"

namespace baton::agent {

// The lease's end, readable from any thread.
class LeaseClock {
 public:
  std::int64_t deadline_ns() const { return deadline_ns_; }
  void set_deadline_ns(std::int64_t deadline) { deadline_ns_ = deadline; }
  std::int64_t remaining_ms(std::int64_t now_ns) const {
    return (deadline_ns_ - now_ns) / 1'000'000;
  }
  std::uint32_t lease_ms() const { return lease_ms_; }
  void set_lease_ms(std::uint32_t lease) { lease_ms_ = lease; }
  // Enough left to begin something that takes a while.
  bool allows_start(std::int64_t now_ns) const {
    return remaining_ms(now_ns) >= static_cast<std::int64_t>(lease_ms_) / 3 && lease_ms_ > 0;
  }

 private:
  std::atomic<std::int64_t> deadline_ns_ = 0;
  std::atomic<std::uint32_t> lease_ms_ = 0;
};

class LeaseTransport {
 public:
  virtual ~LeaseTransport() = default;
  virtual Result<pb::RegisterReply> register_node(const pb::RegisterRequest& request,
                                                  std::uint32_t timeout_ms) = 0;
  virtual Result<pb::HeartbeatReply> heartbeat(const pb::HeartbeatRequest& request,
                                               std::uint32_t timeout_ms) = 0;
  // Gives up the connection and makes a new one: this one may lead nowhere.
  virtual void reconnect() = 0;
};

std::unique_ptr<LeaseTransport> connect_lease(const wire::Dialer& dialer);

struct LeaseNotice {
  std::string log;  // a line for the log, if not empty
  bool warning = false;
  std::optional<pb::RegisterReply> registered;  // the controller knows this node (again)
  std::optional<pb::Policy> policy;             // it changed
};

struct LeaseIdentity {
  pb::NodeFacts facts;
  std::string agent_epoch;
  std::string boot_id;
};

class LeaseKeeper {
 public:
  using Sample = std::function<std::shared_ptr<const pb::NodeSample>()>;  // must not block
  using NowNs = std::function<std::int64_t()>;

  // `before_register` is called before a registration's list is made: afterwards no order that
  // the controller gave before may put an incarnation on the roster.
  LeaseKeeper(
      LeaseTransport& transport, LeaseIdentity identity, Roster& roster, LeaseClock& clock,
      Sample sample, NowNs now, std::function<void()> before_register = [] {});
  ~LeaseKeeper();

  Status start();
  void stop();

  int notice_fd() const { return notice_fd_.get(); }
  std::vector<LeaseNotice> take_notices();

  // One turn of the thread: registers or sends a heartbeat. Returns how long to wait, counted
  // from the turn's beginning. For tests; else only the thread calls it.
  std::uint32_t turn();

 private:
  void loop();
  std::uint32_t turn_register();
  std::uint32_t turn_heartbeat();
  void renew(std::int64_t deadline_ns);
  void note(LeaseNotice notice);
  void note_failure(const std::string& what, const Error& error);

  LeaseTransport& transport_;
  const LeaseIdentity identity_;
  Roster& roster_;
  LeaseClock& clock_;
  const Sample sample_;
  const NowNs now_;
  const std::function<void()> before_register_;

  bool registered_ = false;
  std::uint32_t heartbeat_ms_ = 500;
  int failures_ = 0;
  std::string policy_bytes_;

  Fd notice_fd_;
  std::mutex notices_mutex_;
  std::vector<LeaseNotice> notices_;

  std::mutex stop_mutex_;
  std::condition_variable stop_changed_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace baton::agent
