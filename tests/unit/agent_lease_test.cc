// The lease: what extends it, what does not, and who is told.
#include <gtest/gtest.h>

#include <deque>

#include "agent/attach.h"
#include "agent/checkpoint_schedule.h"
#include "agent/lease.h"
#include "fakes/agent_fakes.h"

namespace baton::agent {
namespace {

constexpr std::int64_t kMs = 1'000'000;

class FakeTransport : public LeaseTransport {
 public:
  Result<pb::RegisterReply> register_node(const pb::RegisterRequest& request,
                                          std::uint32_t) override {
    registrations.push_back(request);
    now_ns += answer_takes_ns;
    pb::RegisterReply reply;
    reply.set_lease_ms(3'000);
    reply.set_heartbeat_ms(600);
    if (unreachable) return fail(ErrorCode::Unavailable, "away");
    return reply;
  }
  Result<pb::HeartbeatReply> heartbeat(const pb::HeartbeatRequest& request,
                                       std::uint32_t timeout_ms) override {
    heartbeats.push_back(request);
    last_timeout_ms = timeout_ms;
    now_ns += answer_takes_ns;
    if (unreachable) return fail(ErrorCode::Unavailable, "away");
    pb::HeartbeatReply reply;
    reply.set_renewed(renewed);
    reply.set_lease_ms(3'000);
    return reply;
  }
  void reconnect() override { ++reconnects; }

  bool unreachable = false;
  bool renewed = true;
  std::int64_t answer_takes_ns = 0;
  std::int64_t now_ns = 1'000 * kMs;
  std::uint32_t last_timeout_ms = 0;
  int reconnects = 0;
  std::vector<pb::RegisterRequest> registrations;
  std::vector<pb::HeartbeatRequest> heartbeats;
};

class LeaseTest : public testing::Test {
 protected:
  LeaseTest()
      : keeper_(
            transport_, LeaseIdentity{.agent_epoch = "e"}, roster_, clock_,
            [] { return std::make_shared<const pb::NodeSample>(); },
            [this] { return transport_.now_ns; }, [this] { ++closed_; }) {}

  std::shared_ptr<RosterEntry> add(std::shared_ptr<fakes::FakeSandbox> sandbox) {
    auto entry = std::make_shared<RosterEntry>();
    entry->job = JobId(7);
    entry->generation = Generation(2);
    entry->relay.store(std::make_shared<LeaseRelay>(sandbox));
    roster_.add(entry);
    return entry;
  }

  FakeTransport transport_;
  Roster roster_;
  LeaseClock clock_;
  int closed_ = 0;
  LeaseKeeper keeper_;
};

// The controller counts it from there, too, and may have a job started before the first heartbeat.
TEST_F(LeaseTest, RegistrationGrantsALease) {
  EXPECT_FALSE(clock_.allows_start(transport_.now_ns));
  transport_.answer_takes_ns = 800 * kMs;
  const std::int64_t sent = transport_.now_ns;
  EXPECT_EQ(keeper_.turn(), 0u);
  EXPECT_EQ(transport_.registrations.size(), 1u);
  EXPECT_EQ(clock_.deadline_ns(), sent + 3'000 * kMs);
  EXPECT_TRUE(clock_.allows_start(transport_.now_ns));
}

TEST_F(LeaseTest, CountsFromTheMomentOfSending) {
  keeper_.turn();
  transport_.answer_takes_ns = 800 * kMs;
  const std::int64_t sent = transport_.now_ns;
  EXPECT_EQ(keeper_.turn(), 600u);
  EXPECT_EQ(clock_.deadline_ns(), sent + 3'000 * kMs);
  EXPECT_EQ(clock_.remaining_ms(transport_.now_ns), 2'200);
}

TEST_F(LeaseTest, OnlyRenewedExtends) {
  keeper_.turn();
  keeper_.turn();
  const std::int64_t deadline = clock_.deadline_ns();
  transport_.now_ns += 600 * kMs;
  transport_.unreachable = true;
  keeper_.turn();
  EXPECT_EQ(clock_.deadline_ns(), deadline);
  transport_.unreachable = false;
  transport_.renewed = false;
  keeper_.turn();
  EXPECT_EQ(clock_.deadline_ns(), deadline);
  EXPECT_EQ(closed_, 1);
  keeper_.turn();
  EXPECT_EQ(transport_.registrations.size(), 2u) << "the controller does not know it: again";
  EXPECT_EQ(closed_, 2) << "orders stop before the list is made";
  EXPECT_EQ(clock_.deadline_ns(), transport_.now_ns + 3'000 * kMs);
}

TEST_F(LeaseTest, StartNeedsAThirdOfALease) {
  keeper_.turn();
  keeper_.turn();
  EXPECT_TRUE(clock_.allows_start(transport_.now_ns + 2'000 * kMs));
  EXPECT_FALSE(clock_.allows_start(transport_.now_ns + 2'001 * kMs));
}

TEST_F(LeaseTest, SilenceMakesANewConnection) {
  keeper_.turn();
  transport_.unreachable = true;
  for (int i = 0; i < 4; ++i) keeper_.turn();
  EXPECT_EQ(transport_.reconnects, 2);
  EXPECT_GE(transport_.last_timeout_ms, 1'000u);
}

TEST_F(LeaseTest, SandboxesAreToldOfRenewalsAndTheControllerOfSandboxes) {
  auto sandbox = std::make_shared<fakes::FakeSandbox>(
      SandboxSpec{.directory = testing::TempDir() + "/lease-sandbox"});
  auto entry = add(sandbox);
  entry->state = pb::INCARNATION_HELD;
  keeper_.turn();
  keeper_.turn();
  ASSERT_EQ(transport_.registrations[0].incarnations_size(), 1);
  EXPECT_EQ(transport_.registrations[0].incarnations(0).state(), pb::INCARNATION_HELD);
  EXPECT_EQ(transport_.heartbeats[0].incarnations(0).generation(), 2u);
  for (int i = 0; i < 1'000 && sandbox->deadlines().empty(); ++i) ::usleep(5'000);
  ASSERT_FALSE(sandbox->deadlines().empty());
  EXPECT_EQ(sandbox->deadlines().back(), clock_.deadline_ns());
  roster_.remove(entry.get());
  keeper_.turn();
  EXPECT_EQ(transport_.heartbeats.back().incarnations_size(), 0);
}

// A pid 1 that does not answer.
class StuckSandbox : public fakes::FakeSandbox {
 public:
  using FakeSandbox::FakeSandbox;
  Status set_lease_deadline(std::int64_t) override {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return freed_; });
    return {};
  }
  void free() {
    std::lock_guard lock(mutex_);
    freed_ = true;
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool freed_ = false;
};

TEST_F(LeaseTest, StuckSandboxDoesNotHoldUpTheOthers) {
  auto stuck =
      std::make_shared<StuckSandbox>(SandboxSpec{.directory = testing::TempDir() + "/lease-stuck"});
  auto healthy = std::make_shared<fakes::FakeSandbox>(
      SandboxSpec{.directory = testing::TempDir() + "/lease-healthy"});
  add(stuck);
  add(healthy);
  keeper_.turn();
  for (int i = 0; i < 3; ++i) {
    transport_.now_ns += 600 * kMs;
    keeper_.turn();
  }
  for (int i = 0; i < 1'000; ++i) {
    const auto deadlines = healthy->deadlines();
    if (!deadlines.empty() && deadlines.back() == clock_.deadline_ns()) break;
    ::usleep(5'000);
  }
  EXPECT_EQ(healthy->deadlines().back(), clock_.deadline_ns());
  stuck->free();
}

TEST(CheckpointSchedule, StartToStartAndAnEarlyFirst) {
  CheckpointSchedule schedule(60'000, 0);
  EXPECT_FALSE(schedule.due(999));
  EXPECT_TRUE(schedule.due(1'000)) << "the preflight should be early";
  schedule.begun(1'000);
  EXPECT_FALSE(schedule.due(60'999));
  EXPECT_TRUE(schedule.due(61'000));
  EXPECT_FALSE(CheckpointSchedule(0, 0).due(1'000'000)) << "no interval, no checkpoints";
}

// What is wrong with a program stays wrong; a disk has room again at any moment, and until the next
// attempt the job's newest checkpoint grows old.
TEST(CheckpointSchedule, FailuresSlowItDownByTheirKind) {
  CheckpointSchedule schedule(1'000, 0);
  std::int64_t now = 1'000;
  for (bool refused : {true, false}) {
    std::int64_t pause = 0;
    for (int i = 0; i < 10; ++i) {
      schedule.begun(now);
      schedule.failed(refused, now);
      pause = schedule.due_ms() - now;
      now = schedule.due_ms();
    }
    EXPECT_EQ(pause, refused ? 60'000 : 5'000);
  }
  schedule.begun(now);
  schedule.succeeded();
  schedule.begun(now);
  EXPECT_EQ(schedule.due_ms(), now + 1'000);
}

pb::Order order(std::uint64_t id) {
  pb::Order order;
  order.set_order_id(id);
  return order;
}
pb::OrderResult result(std::uint64_t id) {
  pb::OrderResult result;
  result.set_order_id(id);
  return result;
}

TEST(OrderLedger, RepeatedOrderIsTakenForOneAndAnsweredAgain) {
  OrderLedger ledger;
  pb::Order first = order(5);
  EXPECT_TRUE(ledger.take(first).is_new);
  pb::Order again = order(5);
  EXPECT_FALSE(ledger.take(again).is_new);
  const auto settled = ledger.settle(result(first.order_id()));
  ASSERT_TRUE(settled);
  EXPECT_EQ(settled->order_id(), 5u);
  const auto seen = ledger.take(again);
  ASSERT_TRUE(seen.result);
  EXPECT_EQ(seen.result->order_id(), 5u);
}

TEST(OrderLedger, ResultOfAVoidOrderAnswersNoOtherOfThatNumber) {
  OrderLedger ledger;
  pb::Order before = order(5);
  ledger.take(before);
  ledger.clear();  // registered with the controller's next life, which counts anew
  pb::Order after = order(5);
  EXPECT_TRUE(ledger.take(after).is_new);
  EXPECT_FALSE(ledger.settle(result(before.order_id())));
  EXPECT_EQ(ledger.settle(result(after.order_id()))->order_id(), 5u);
}

}  // namespace
}  // namespace baton::agent
