#include "cluster/sim_agent.h"

#include <deque>

#include "base/clock.h"
#include "cluster/process.h"

namespace baton::bench {
namespace {

constexpr std::chrono::seconds register_timeout{10};
constexpr std::chrono::milliseconds heartbeat_timeout{1'666};  // lease / 3, as a real agent
constexpr std::chrono::seconds report_timeout{10};

template <typename Duration>
void limit(grpc::ClientContext& context, Duration timeout) {
  context.set_deadline(std::chrono::system_clock::now() + timeout);
}

}  // namespace

void AgentFigures::add_heartbeat(double ms) {
  std::lock_guard lock(mutex_);
  heartbeats_ms_.push_back(ms);
}

std::vector<double> AgentFigures::take_heartbeats_ms() {
  std::lock_guard lock(mutex_);
  return std::exchange(heartbeats_ms_, {});
}

// The stream of orders. Owns itself until it is done.
class SimAgent::Orders final : public grpc::ClientBidiReactor<v1::AgentMessage, v1::Order> {
 public:
  explicit Orders(SimAgent& agent) : agent_(agent) {
    agent.orders_->async()->Attach(&context_, this);
    v1::AgentMessage hello;
    hello.mutable_hello()->set_node(agent.facts_.name());
    hello.mutable_hello()->set_agent_epoch(agent.epoch_);
    out_.push_back(std::move(hello));
    writing_ = true;
    StartWrite(&out_.front());
    StartRead(&order_);
    StartCall();
  }
  void cancel() { context_.TryCancel(); }

 private:
  void OnReadDone(bool ok) override {
    if (!ok) return;
    v1::AgentMessage message;
    *message.mutable_result() = agent_.execute(order_);
    {
      std::lock_guard lock(mutex_);
      out_.push_back(std::move(message));
      if (!std::exchange(writing_, true)) StartWrite(&out_.front());
    }
    StartRead(&order_);
  }
  void OnWriteDone(bool ok) override {
    std::lock_guard lock(mutex_);
    out_.pop_front();
    writing_ = ok && !out_.empty();
    if (writing_) StartWrite(&out_.front());
  }
  void OnDone(const grpc::Status&) override {
    agent_.stream_ended();
    delete this;
  }

  SimAgent& agent_;
  grpc::ClientContext context_;
  v1::Order order_;
  std::mutex mutex_;
  std::deque<v1::AgentMessage> out_;
  bool writing_ = false;
};

struct SimAgent::Registration {
  grpc::ClientContext context;
  v1::RegisterRequest request;
  v1::RegisterReply reply;
};

struct SimAgent::Beat {
  grpc::ClientContext context;
  v1::HeartbeatRequest request;
  v1::HeartbeatReply reply;
};

struct SimAgent::Report {
  grpc::ClientContext context;
  v1::CheckpointReport request;
  v1::Empty reply;
};

SimAgent::SimAgent(const wire::Dialer& dialer, v1::NodeFacts facts, AgentFigures& figures)
    : facts_(std::move(facts)),
      figures_(figures),
      epoch_(std::to_string(boot_time_ns())),
      lease_(v1::Cluster::NewStub(dialer.open())),
      orders_(v1::Cluster::NewStub(dialer.open())),
      link_(v1::Cluster::NewStub(dialer.open())) {}

SimAgent::~SimAgent() { end(); }

void SimAgent::end() {
  std::lock_guard lock(mutex_);
  ending_ = true;
  for (auto* call : {lease_call_, report_call_})
    if (call) call->TryCancel();
  if (stream_) stream_->cancel();
}

bool SimAgent::is_idle() const {
  std::lock_guard lock(mutex_);
  return !lease_call_ && !report_call_ && !stream_;
}

void SimAgent::turn() {
  std::lock_guard lock(mutex_);
  if (ending_) return;
  if (lease_call_) {
    ++figures_.late;
    return;
  }
  if (!registered_) return send_registration();
  ++turns_;
  send_heartbeat();
  if (!answered_) return;  // the lease comes first
  if (!stream_) stream_ = new Orders(*this);
  if (!report_call_) send_report();
}

std::int64_t SimAgent::renewed_ns() const {
  std::lock_guard lock(mutex_);
  return renewed_ns_;
}

// A lease counts from when it was asked for; it has to be answered before the one before runs out.
void SimAgent::renewed(std::int64_t sent_ns) {
  constexpr std::int64_t lease_ns = std::chrono::nanoseconds(kLease).count();
  if (renewed_ns_ != 0 && boot_time_ns() - renewed_ns_ > lease_ns) ++figures_.lapsed;
  renewed_ns_ = sent_ns;
}

v1::NodeSample SimAgent::sample() const {
  v1::NodeSample sample;
  sample.set_cpu_utilization(0.4);
  sample.set_memory_utilization(0.3);
  sample.set_psi_cpu_some_avg10(1.5);
  sample.set_load1(0.5 + 0.01 * static_cast<double>(turns_ % 50));
  sample.set_disk_utilization(0.5);
  sample.set_disk_free_bytes(std::uint64_t{100} << 30);
  return sample;
}

void SimAgent::send_registration() {
  auto* call = new Registration;
  limit(call->context, register_timeout);
  call->context.set_wait_for_ready(true);
  *call->request.mutable_facts() = facts_;
  call->request.set_agent_epoch(epoch_);
  call->request.set_boot_id(facts_.name());
  for (const auto& [job, incarnation] : incarnations_)
    *call->request.add_incarnations() = incarnation;
  lease_call_ = &call->context;
  const auto sent_ns = boot_time_ns();
  lease_->async()->Register(&call->context, &call->request, &call->reply,
                            [this, call, sent_ns](const grpc::Status& status) {
                              const std::unique_ptr<Registration> owned(call);
                              std::lock_guard lock(mutex_);
                              lease_call_ = nullptr;
                              registered_ = status.ok();
                              answered_ = registered_;
                              if (registered_) renewed(sent_ns);
                              ++(status.ok() ? figures_.registered : figures_.failed);
                            });
}

void SimAgent::send_heartbeat() {
  auto* call = new Beat;
  limit(call->context, heartbeat_timeout);
  call->request.set_node(facts_.name());
  call->request.set_agent_epoch(epoch_);
  *call->request.mutable_sample() = sample();
  for (const auto& [job, incarnation] : incarnations_)
    *call->request.add_incarnations() = incarnation;
  lease_call_ = &call->context;
  const auto sent_ns = boot_time_ns();
  lease_->async()->Heartbeat(&call->context, &call->request, &call->reply,
                             [this, call, sent_ns](const grpc::Status& status) {
                               const double ms =
                                   static_cast<double>(boot_time_ns() - sent_ns) / 1e6;
                               const std::unique_ptr<Beat> owned(call);
                               std::lock_guard lock(mutex_);
                               lease_call_ = nullptr;
                               answered_ = status.ok() && call->reply.renewed();
                               if (!status.ok()) {
                                 ++figures_.failed;
                               } else if (!call->reply.renewed()) {
                                 ++figures_.not_renewed;
                                 registered_ = false;
                                 if (!ending_) send_registration();
                               } else {
                                 renewed(sent_ns);
                                 figures_.add_heartbeat(ms);
                               }
                             });
}

// That a job's checkpoint went well, one job after the other.
void SimAgent::send_report() {
  const auto every = kTurnsPerReport / std::max<std::uint64_t>(incarnations_.size(), 1);
  if (incarnations_.empty() || turns_ % std::max<std::uint64_t>(every, 1) != 0) return;
  auto chosen = incarnations_.begin();
  std::advance(chosen, (turns_ / std::max<std::uint64_t>(every, 1)) % incarnations_.size());
  auto* call = new Report;
  limit(call->context, report_timeout);
  call->request.set_job_id(chosen->second.job_id());
  call->request.set_generation(chosen->second.generation());
  report_call_ = &call->context;
  link_->async()->ReportCheckpoint(&call->context, &call->request, &call->reply,
                                   [this, call](const grpc::Status& status) {
                                     const std::unique_ptr<Report> owned(call);
                                     std::lock_guard lock(mutex_);
                                     report_call_ = nullptr;
                                     if (!status.ok()) ++figures_.failed;
                                   });
}

void SimAgent::stream_ended() {
  std::lock_guard lock(mutex_);
  stream_ = nullptr;
  if (!ending_) ++figures_.streams_ended;
}

v1::OrderResult SimAgent::execute(const v1::Order& order) {
  ++figures_.orders;
  v1::OrderResult result;
  result.set_order_id(order.order_id());
  std::lock_guard lock(mutex_);
  if (order.has_start()) {
    v1::Incarnation& incarnation = incarnations_[order.start().job_id()];
    incarnation.set_job_id(order.start().job_id());
    incarnation.set_generation(order.start().generation());
    incarnation.set_state(v1::INCARNATION_RUNNING);
    incarnation.set_cpu_cores(0.05);
    ++figures_.started;
  } else if (order.has_kill()) {
    incarnations_.erase(order.kill().job_id());
  } else {
    result.set_failure(v1::FAILURE_INTERNAL);
    result.set_error("a simulated agent can't do this");
  }
  return result;
}

}  // namespace baton::bench
