// An agent as the controller sees it: it registers, sends heartbeats, takes orders and reports on
// checkpoints, each on a connection of its own as a real one does (agent/lease.h, agent/attach.h,
// agent/controller_link.h). Nothing runs behind it: a job that it is told to start runs at once.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "wire/baton.grpc.pb.h"
#include "wire/channel.h"

namespace baton::bench {

// Of all agents together.
struct AgentFigures {
  std::atomic<std::uint64_t> registered = 0;   // registrations that were accepted
  std::atomic<std::uint64_t> failed = 0;       // calls that came to nothing
  std::atomic<std::uint64_t> not_renewed = 0;  // heartbeats that were answered so
  std::atomic<std::uint64_t> late = 0;         // turns at which the call before was still out
  std::atomic<std::uint64_t> orders = 0;
  std::atomic<std::uint64_t> streams_ended = 0;
  std::atomic<std::uint64_t> started = 0;
  std::atomic<std::uint64_t> lapsed = 0;  // leases that were renewed too late, if at all

  // Round trips since the last call of this.
  void add_heartbeat(double ms);
  std::vector<double> take_heartbeats_ms();

 private:
  std::mutex mutex_;
  std::vector<double> heartbeats_ms_;
};

// Thread-safe. Outlives its calls only if ended() before it goes.
class SimAgent {
 public:
  // Every job is reported on once in so many turns of its agent.
  static constexpr std::uint64_t kTurnsPerReport = 60;

  SimAgent(const wire::Dialer& dialer, v1::NodeFacts facts, AgentFigures& figures);
  ~SimAgent();
  SimAgent(const SimAgent&) = delete;
  SimAgent& operator=(const SimAgent&) = delete;

  // What is due each second: a registration or a heartbeat, and perhaps a report. Returns at once.
  void turn();
  // Breaks off what is out, and begins nothing any more.
  void end();
  bool is_idle() const;
  // Boot time at which the last call was sent that renewed its lease. 0: none yet.
  std::int64_t renewed_ns() const;

 private:
  class Orders;
  struct Registration;
  struct Beat;
  struct Report;

  void send_registration();
  void send_heartbeat();
  void send_report();
  v1::OrderResult execute(const v1::Order& order);
  void stream_ended();
  void renewed(std::int64_t sent_ns);  // under the mutex
  v1::NodeSample sample() const;

  const v1::NodeFacts facts_;
  AgentFigures& figures_;
  const std::string epoch_;
  std::unique_ptr<v1::Cluster::Stub> lease_;
  std::unique_ptr<v1::Cluster::Stub> orders_;
  std::unique_ptr<v1::Cluster::Stub> link_;

  mutable std::mutex mutex_;
  bool ending_ = false;
  bool registered_ = false;
  bool answered_ = false;  // the last call for the lease was
  std::uint64_t turns_ = 0;
  std::int64_t renewed_ns_ = 0;
  std::map<std::uint64_t, v1::Incarnation> incarnations_;  // by job
  // Under way; each owns itself until its callback.
  grpc::ClientContext* lease_call_ = nullptr;
  grpc::ClientContext* report_call_ = nullptr;
  Orders* stream_ = nullptr;
};

}  // namespace baton::bench
