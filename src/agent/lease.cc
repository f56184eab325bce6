#include "agent/lease.h"

#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>

#include "sys/priority.h"
#include "wire/baton.grpc.pb.h"
#include "wire/channel.h"
#include "wire/status.h"
#include "wire/text.h"

namespace baton::agent {
namespace {

constexpr std::uint32_t kRegisterTimeoutMs = 2'000;
constexpr std::uint32_t kRegisterRetryMs = 250;
constexpr std::uint32_t kFailedHeartbeatRetryMs = 100;
constexpr int kFailuresBeforeReconnect = 2;
constexpr std::uint32_t kShutOutRetryMs = 5'000;
constexpr int kMostDoublings = 8;
// Of all jobs in a registration; the controller needs them only if it has lost its own.
constexpr std::size_t kMostSpecBytes = 16 << 20;

// Who is shut out stays so until a person does something: ever more seldom, then.
std::uint32_t retry_ms(const Error& error, int failures, std::uint32_t usual_ms) {
  if (error.code() != ErrorCode::Forbidden) return usual_ms;
  return std::min(usual_ms << std::min(failures, kMostDoublings), kShutOutRetryMs);
}

class GrpcLeaseTransport : public LeaseTransport {
 public:
  explicit GrpcLeaseTransport(const wire::Dialer& dialer)
      : dialer_(dialer), stub_(pb::Cluster::NewStub(dialer_.open())) {}

  Result<pb::RegisterReply> register_node(const pb::RegisterRequest& request,
                                          std::uint32_t timeout_ms) override {
    grpc::ClientContext context;
    context.set_deadline(deadline(timeout_ms));
    pb::RegisterReply reply;
    BATON_CHECK(wire::check(stub_->Register(&context, request, &reply)));
    return reply;
  }

  Result<pb::HeartbeatReply> heartbeat(const pb::HeartbeatRequest& request,
                                       std::uint32_t timeout_ms) override {
    grpc::ClientContext context;
    context.set_deadline(deadline(timeout_ms));
    pb::HeartbeatReply reply;
    BATON_CHECK(wire::check(stub_->Heartbeat(&context, request, &reply)));
    return reply;
  }

  void reconnect() override { stub_ = pb::Cluster::NewStub(dialer_.open()); }

 private:
  static std::chrono::system_clock::time_point deadline(std::uint32_t timeout_ms) {
    return std::chrono::system_clock::now() + std::chrono::milliseconds(timeout_ms);
  }

  const wire::Dialer dialer_;
  std::unique_ptr<pb::Cluster::Stub> stub_;
};

}  // namespace

std::unique_ptr<LeaseTransport> connect_lease(const wire::Dialer& dialer) {
  return std::make_unique<GrpcLeaseTransport>(dialer);
}

LeaseKeeper::LeaseKeeper(LeaseTransport& transport, LeaseIdentity identity, Roster& roster,
                         LeaseClock& clock, Sample sample, NowNs now,
                         std::function<void()> before_register)
    : transport_(transport),
      identity_(std::move(identity)),
      roster_(roster),
      clock_(clock),
      sample_(std::move(sample)),
      now_(std::move(now)),
      before_register_(std::move(before_register)),
      notice_fd_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

LeaseKeeper::~LeaseKeeper() { stop(); }

Status LeaseKeeper::start() {
  if (!notice_fd_.valid()) return fail_errno("eventfd");
  thread_ = std::thread([this] { loop(); });
  return {};
}

void LeaseKeeper::stop() {
  {
    std::lock_guard lock(stop_mutex_);
    stopping_ = true;
  }
  stop_changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

std::vector<LeaseNotice> LeaseKeeper::take_notices() {
  std::uint64_t count = 0;
  (void)!::read(notice_fd_.get(), &count, sizeof(count));
  std::lock_guard lock(notices_mutex_);
  return std::exchange(notices_, {});
}

void LeaseKeeper::note(LeaseNotice notice) {
  {
    std::lock_guard lock(notices_mutex_);
    notices_.push_back(std::move(notice));
  }
  const std::uint64_t one = 1;
  (void)!::write(notice_fd_.get(), &one, sizeof(one));
}

void LeaseKeeper::loop() {
  ::pthread_setname_np(::pthread_self(), "lease");
  sys::raise_thread_priority();
  std::unique_lock lock(stop_mutex_);
  while (!stopping_) {
    lock.unlock();
    const auto began = std::chrono::steady_clock::now();
    const std::uint32_t wait_ms = turn();
    lock.lock();
    stop_changed_.wait_until(lock, began + std::chrono::milliseconds(wait_ms),
                             [this] { return stopping_; });
  }
}

std::uint32_t LeaseKeeper::turn() { return registered_ ? turn_heartbeat() : turn_register(); }

std::uint32_t LeaseKeeper::turn_register() {
  before_register_();
  pb::RegisterRequest request;
  *request.mutable_facts() = identity_.facts;
  request.set_agent_epoch(identity_.agent_epoch);
  request.set_boot_id(identity_.boot_id);
  std::size_t spec_bytes = 0;
  for (const auto& entry : *roster_.snapshot()) {
    pb::Incarnation& incarnation = *request.add_incarnations() = entry->describe();
    spec_bytes += entry->spec.ByteSizeLong();
    if (spec_bytes <= kMostSpecBytes) *incarnation.mutable_spec() = entry->spec;
  }
  for (const auto& copy : *roster_.staged()) *request.add_staged() = copy;
  wire::clean_text(request);
  const std::int64_t sent_ns = now_();
  auto reply = transport_.register_node(request, kRegisterTimeoutMs);
  if (!reply) {
    note_failure("register", reply.error());
    return retry_ms(reply.error(), failures_, kRegisterRetryMs);
  }
  registered_ = true;
  failures_ = 0;
  clock_.set_lease_ms(reply->lease_ms());
  heartbeat_ms_ = std::max(reply->heartbeat_ms(), 20u);
  policy_bytes_ = reply->policy().SerializeAsString();
  renew(sent_ns + std::int64_t{clock_.lease_ms()} * 1'000'000);  // before anybody gets orders
  note({.log = fmt::format("registered; lease {} ms, heartbeat {} ms", reply->lease_ms(),
                           heartbeat_ms_),
        .registered = *reply,
        .policy = reply->policy()});
  return 0;
}

std::uint32_t LeaseKeeper::turn_heartbeat() {
  pb::HeartbeatRequest request;
  request.set_node(identity_.facts.name());
  request.set_agent_epoch(identity_.agent_epoch);
  if (auto sample = sample_()) *request.mutable_sample() = *sample;
  for (const auto& entry : *roster_.snapshot()) *request.add_incarnations() = entry->describe();
  for (const auto& copy : *roster_.staged()) *request.add_staged() = copy;
  wire::clean_text(request);
  const std::uint32_t timeout_ms = std::max(heartbeat_ms_, clock_.lease_ms() / 3);
  const std::int64_t sent_ns = now_();
  auto reply = transport_.heartbeat(request, timeout_ms);
  if (!reply) {
    note_failure("heartbeat", reply.error());
    return retry_ms(reply.error(), failures_, std::min(heartbeat_ms_, kFailedHeartbeatRetryMs));
  }
  if (!reply->renewed()) {
    note({.log = "the controller does not know this agent; registering again", .warning = true});
    registered_ = false;
    return 0;
  }
  if (failures_ > 0) note({.log = "heartbeats are answered again"});
  failures_ = 0;
  if (reply->lease_ms() > 0) clock_.set_lease_ms(reply->lease_ms());
  renew(sent_ns + std::int64_t{clock_.lease_ms()} * 1'000'000);
  if (std::string bytes = reply->policy().SerializeAsString();
      reply->has_policy() && bytes != policy_bytes_) {
    policy_bytes_ = std::move(bytes);
    note({.policy = reply->policy()});
  }
  return heartbeat_ms_;
}

void LeaseKeeper::renew(std::int64_t deadline_ns) {
  if (deadline_ns <= clock_.deadline_ns()) return;
  clock_.set_deadline_ns(deadline_ns);
  for (const auto& entry : *roster_.snapshot())
    if (auto relay = entry->relay.load()) relay->renew(deadline_ns);
}

void LeaseKeeper::note_failure(const std::string& what, const Error& error) {
  if (failures_ == 0) note({.log = fmt::format("{}: {}", what, error.message()), .warning = true});
  if (++failures_ % kFailuresBeforeReconnect == 0) transport_.reconnect();
}

}  // namespace baton::agent
