// Checkpoints kept ready for jobs that run elsewhere, under a supervisor with all else faked.
#include <gtest/gtest.h>
#include <stdlib.h>

#include <future>

#include "agent/supervisor.h"
#include "base/clock.h"
#include "fakes/agent_fakes.h"
#include "store/hash.h"

namespace baton::agent {
namespace {

namespace fs = std::filesystem;
using fakes::FakeLink;

class StagerTest : public testing::Test {
 protected:
  StagerTest() {
    char name[] = "/tmp/baton-stager-XXXXXX";
    root_ = ::mkdtemp(name);
    link_.hash_of_image = store::hash_bytes("registers");
    link_.stored.set_job_id(7);
    link_.stored.set_size_bytes(9);
    lease_.set_lease_ms(3'000);
    lease_.set_deadline_ns(boot_time_ns() + 30'000'000'000);
    registered_.open();
    open_agent();
  }
  ~StagerTest() override {
    close_agent();
    fs::remove_all(root_);
  }

  void open_agent() {
    copies_ = std::move(*LocalCopies::open(root_ / "copies"));
    node_.reset(new NodeContext{.node = "node-1",
                                .data = root_,
                                .base = "/",
                                .criu_version = "4.2.1",
                                .standby_limit_bytes = limit_bytes_,
                                .controller = link_,
                                .engine = engine_,
                                .sandboxes = sandboxes_,
                                .roster = roster_,
                                .lease = lease_,
                                .copies = *copies_,
                                .registered = registered_,
                                .now_ns = boot_time_ns,
                                .send_result = [this](const auto& r) { link_.add_result(r); },
                                .memory_free_bytes = [] { return std::uint64_t{1} << 30; },
                                .finished = [this] { link_.poke(); }});
    supervisor_ = std::make_unique<Supervisor>(*node_);
    EXPECT_TRUE(supervisor_->adopt_all());
  }
  void close_agent() {
    supervisor_.reset();
    node_.reset();
    copies_.reset();
  }

  std::uint64_t stage(std::uint64_t checkpoint, std::uint64_t job = 7, bool await_memory = false) {
    pb::Order order;
    order.set_order_id(++orders_);
    order.mutable_stage()->set_job_id(job);
    order.mutable_stage()->set_checkpoint(checkpoint);
    order.mutable_stage()->set_await_memory(await_memory);
    supervisor_->order(order);
    return orders_;
  }
  std::uint64_t restore(std::uint64_t checkpoint) {
    pb::Order order;
    order.set_order_id(++orders_);
    order.mutable_restore()->set_job_id(7);
    order.mutable_restore()->set_generation(2);
    order.mutable_restore()->set_checkpoint(checkpoint);
    order.mutable_restore()->mutable_spec()->add_argv("loop");
    supervisor_->order(order);
    return orders_;
  }
  pb::OrderResult result_of(std::uint64_t order_id) {
    pb::OrderResult found;
    EXPECT_TRUE(link_.wait_until([&](const FakeLink& link) {
      for (const auto& result : link.results_)
        if (result.order_id() == order_id) found = result;
      return found.order_id() == order_id;
    })) << "order "
        << order_id << " was not answered";
    return found;
  }
  // "7:5" for checkpoint 5 of job 7.
  std::string listed() const {
    std::string text;
    for (const auto& copy : *roster_.staged())
      text += fmt::format("{}{}:{}", text.empty() ? "" : " ", copy.job_id(), copy.checkpoint());
    return text;
  }

  fs::path root_;
  std::uint64_t limit_bytes_ = 0;
  FakeLink link_;
  fakes::FakeEngine engine_;
  fakes::FakeSandboxes sandboxes_;
  Roster roster_;
  LeaseClock lease_;
  RegistrationGate registered_;
  std::unique_ptr<LocalCopies> copies_;
  std::unique_ptr<NodeContext> node_;
  std::unique_ptr<Supervisor> supervisor_;
  std::uint64_t orders_ = 0;
};

TEST_F(StagerTest, KeepsTheCheckpointAndSaysSo) {
  const auto done = result_of(stage(5));
  EXPECT_EQ(done.failure(), pb::FAILURE_NONE) << done.error();
  EXPECT_EQ(done.checkpoint(), 5u);
  EXPECT_EQ(listed(), "7:5");
  EXPECT_EQ(result_of(stage(6)).failure(), pb::FAILURE_NONE);
  EXPECT_EQ(listed(), "7:6");
  const auto dropped = result_of(stage(0));
  EXPECT_EQ(dropped.failure(), pb::FAILURE_NONE);
  EXPECT_EQ(dropped.checkpoint(), 0u);
  EXPECT_FALSE(copies_->find(JobId(7)));
}

// A move freezes its job when that is so.
TEST_F(StagerTest, SaysSoWhenTheMemoryIsDecompressedWhereThatIsAwaited) {
  std::promise<void> go_on;
  auto gate = go_on.get_future().share();
  std::atomic<bool> at_work = false;
  ReadyKeeper ready([&] {
    at_work = true;
    at_work.notify_all();
    gate.wait();
    return std::uint64_t{1} << 20;
  });
  node_->ready = &ready;
  EXPECT_EQ(result_of(stage(5)).failure(), pb::FAILURE_NONE) << "a standby awaits nothing";
  const auto order = stage(6, 7, true);
  at_work.wait(false);
  EXPECT_FALSE(link_.wait_until(
      [&](const FakeLink& link) {
        return std::ranges::any_of(link.results_,
                                   [&](const auto& result) { return result.order_id() == order; });
      },
      std::chrono::milliseconds(100)));
  go_on.set_value();
  EXPECT_EQ(result_of(order).failure(), pb::FAILURE_NONE);
  close_agent();  // before what it uses
}

TEST_F(StagerTest, WhatIsStillBeingFetchedIsListed) {
  std::promise<void> go_on;
  auto gate = go_on.get_future().share();
  link_.on_call = [&](std::string_view call) -> Status {
    if (call == "download") gate.wait();
    return {};
  };
  const auto first = stage(5);
  const auto second = stage(0);
  EXPECT_EQ(listed(), "7:0");
  go_on.set_value();
  EXPECT_EQ(result_of(first).failure(), pb::FAILURE_NONE);
  EXPECT_EQ(result_of(second).failure(), pb::FAILURE_NONE);
  EXPECT_FALSE(copies_->find(JobId(7))) << "in their order: the last one counts";
}

TEST_F(StagerTest, SurvivesTheAgentAndIsListedAgain) {
  result_of(stage(5));
  close_agent();
  roster_.set_staged({});
  open_agent();
  EXPECT_EQ(listed(), "7:5");
  ASSERT_TRUE(copies_->find(JobId(7)));
  supervisor_->bury();
  EXPECT_TRUE(copies_->find(JobId(7))) << "its job never lived here";
}

TEST_F(StagerTest, ARestoreUsesItWithoutADownload) {
  result_of(stage(5));
  const int before = link_.downloads_;
  const auto done = result_of(restore(5));
  EXPECT_EQ(done.failure(), pb::FAILURE_NONE) << done.error();
  EXPECT_EQ(link_.downloads_, before);
  EXPECT_FALSE(copies_->find(JobId(7))->staged()) << "it is the job's own now";
  result_of(stage(0));
  EXPECT_TRUE(copies_->find(JobId(7))) << "a late order to drop it takes nothing from the job";
}

TEST_F(StagerTest, AFetchGivesWayToTheJobItself) {
  std::promise<void> go_on;
  auto gate = go_on.get_future().share();
  std::atomic<int> calls = 0;
  link_.on_call = [&](std::string_view call) -> Status {
    if (call != "download") return {};
    const bool first = calls++ == 0;
    calls.notify_all();
    if (first) gate.wait();
    return {};
  };
  const auto staging = stage(5);
  calls.wait(0);
  EXPECT_EQ(result_of(restore(6)).failure(), pb::FAILURE_NONE);
  go_on.set_value();
  EXPECT_NE(result_of(staging).failure(), pb::FAILURE_NONE);
  ASSERT_TRUE(copies_->find(JobId(7)));
  EXPECT_EQ(copies_->find(JobId(7))->info().number(), 6u);
  EXPECT_FALSE(fs::exists(root_ / "staging" / "7")) << "what was fetched is gone";
}

TEST_F(StagerTest, KeepsNoMoreThanItMay) {
  close_agent();
  limit_bytes_ = 20;
  open_agent();
  EXPECT_EQ(result_of(stage(5)).failure(), pb::FAILURE_NONE);
  EXPECT_EQ(result_of(stage(6)).failure(), pb::FAILURE_NONE) << "in place of the first";
  link_.stored.set_job_id(8);
  EXPECT_EQ(result_of(stage(1, 8)).failure(), pb::FAILURE_NONE);
  link_.stored.set_job_id(9);
  const auto refused = result_of(stage(1, 9));
  EXPECT_EQ(refused.failure(), pb::FAILURE_NO_SPACE);
  EXPECT_NE(refused.error().find("--standby-limit"), std::string::npos) << refused.error();
  EXPECT_EQ(listed(), "7:6 8:1");
}

TEST_F(StagerTest, AFailedFetchLeavesTheOldCopy) {
  result_of(stage(5));
  link_.on_call = [&](std::string_view call) -> Status {
    if (call == "download") return fail(ErrorCode::Unavailable, "the cable was cut");
    return {};
  };
  EXPECT_EQ(result_of(stage(6)).failure(), pb::FAILURE_INTERNAL);
  EXPECT_EQ(listed(), "7:5");
}

TEST_F(StagerTest, ADamagedCopyIsTheNodesFaultNotTheCheckpoints) {
  result_of(stage(5));
  std::ofstream(copies_->find(JobId(7))->directory() / "images/core.img") << "registerz";
  engine_.on_restore = [](const RestoreOptions&) -> Status {
    return fail(ErrorCode::Damaged, "core.img is wrong");
  };
  // The description says that it is the same; small files are compared, so it is fetched anew.
  const auto done = result_of(restore(5));
  EXPECT_EQ(done.failure(), pb::FAILURE_DAMAGED_CHECKPOINT);
  EXPECT_FALSE(copies_->find(JobId(7)));
}

}  // namespace
}  // namespace baton::agent
