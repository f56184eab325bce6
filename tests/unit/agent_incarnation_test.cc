// Incarnations under a supervisor, with everything around them faked.
#include <gtest/gtest.h>
#include <stdlib.h>

#include "agent/supervisor.h"
#include "base/clock.h"
#include "fakes/agent_fakes.h"
#include "store/hash.h"

namespace baton::agent {
namespace {

namespace fs = std::filesystem;
using fakes::FakeLink;

class IncarnationTest : public testing::Test {
 protected:
  IncarnationTest() {
    char name[] = "/tmp/baton-incarnation-XXXXXX";
    root_ = ::mkdtemp(name);
    link_.hash_of_image = store::hash_bytes("registers");
    lease_.set_lease_ms(3'000);
    lease_.set_deadline_ns(boot_time_ns() + 3'000'000'000);
    registered_.open();
    copies_ = std::move(*LocalCopies::open(root_ / "copies"));
    node_.reset(new NodeContext{.node = "node-1",
                                .data = root_,
                                .base = "/",
                                .criu_version = "4.2.1",
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
  }
  ~IncarnationTest() override {
    supervisor_.reset();
    copies_.reset();
    fs::remove_all(root_);
  }

  // The agent's process ends and another one starts.
  void restart_agent() {
    supervisor_ = std::make_unique<Supervisor>(*node_);
    ASSERT_TRUE(supervisor_->adopt_all());
  }

  pb::JobSpec spec(std::uint32_t interval_ms = 0) {
    pb::JobSpec spec;
    spec.set_name("loop");
    spec.add_argv("loop");
    spec.set_interval_ms(interval_ms);
    return spec;
  }

  std::uint64_t start(std::uint64_t generation, pb::JobSpec spec) {
    pb::Order order;
    order.set_order_id(++orders_);
    order.mutable_start()->set_job_id(7);
    order.mutable_start()->set_generation(generation);
    *order.mutable_start()->mutable_spec() = std::move(spec);
    supervisor_->order(order);
    return orders_;
  }
  template <typename Fill>
  std::uint64_t order(Fill fill, std::uint64_t generation = 1) {
    pb::Order order;
    order.set_order_id(++orders_);
    auto* what = fill(order);
    what->set_job_id(7);
    what->set_generation(generation);
    supervisor_->order(order);
    return orders_;
  }
  std::uint64_t freeze() {
    return order([](pb::Order& o) { return o.mutable_freeze(); });
  }
  std::uint64_t kill() {
    return order([](pb::Order& o) { return o.mutable_kill(); });
  }
  std::uint64_t checkpoint() {
    return order([](pb::Order& o) { return o.mutable_checkpoint(); });
  }
  std::uint64_t release(bool kill) {
    return order([&](pb::Order& o) {
      o.mutable_release()->set_kill(kill);
      return o.mutable_release();
    });
  }
  std::uint64_t restore(std::uint64_t generation, std::uint64_t checkpoint) {
    return order(
        [&](pb::Order& o) {
          o.mutable_restore()->set_checkpoint(checkpoint);
          *o.mutable_restore()->mutable_spec() = spec();
          return o.mutable_restore();
        },
        generation);
  }

  pb::OrderResult result_of(std::uint64_t id) {
    pb::OrderResult found;
    const bool came = link_.wait_until([&](FakeLink& link) {
      for (const auto& result : link.results_)
        if (result.order_id() == id) {
          found = result;
          return true;
        }
      return false;
    });
    EXPECT_TRUE(came) << "no answer to order " << id;
    return found;
  }
  pb::IncarnationState state() {
    const auto entries = roster_.snapshot();
    return entries->empty() ? pb::INCARNATION_STARTING : entries->front()->state.load();
  }
  bool gone() {
    return link_.wait_until([&](FakeLink&) { return roster_.snapshot()->empty(); });
  }
  std::shared_ptr<fakes::FakeSandbox> sandbox(std::uint64_t generation = 1) {
    return sandboxes_.at(root_ / fmt::format("incarnations/7.{}/sandbox", generation));
  }
  fs::path folder(std::uint64_t generation = 1) {
    return root_ / fmt::format("incarnations/7.{}", generation);
  }

  fs::path root_;
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

TEST_F(IncarnationTest, RunsToItsEndWithAllOfItsOutput) {
  EXPECT_EQ(result_of(start(1, spec())).failure(), pb::FAILURE_NONE);
  EXPECT_EQ(state(), pb::INCARNATION_RUNNING);
  sandbox()->print("one\ntwo\n");
  sandbox()->end({SandboxExit::Kind::Exited, 3, 8});
  ASSERT_TRUE(link_.wait_until([](FakeLink& link) { return !link.exits_.empty(); }));
  EXPECT_EQ(link_.output_, "one\ntwo\n");
  EXPECT_EQ(link_.exits_[0].code(), 3);
  EXPECT_EQ(link_.exits_[0].cause(), "exited");
  EXPECT_TRUE(gone());
  EXPECT_FALSE(fs::exists(folder()));
}

TEST_F(IncarnationTest, CommandThatDoesNotExistLeavesNothing) {
  pb::JobSpec wrong = spec();
  wrong.set_argv(0, "no-such-command");
  const auto result = result_of(start(1, wrong));
  EXPECT_EQ(result.failure(), pb::FAILURE_INVALID);
  EXPECT_EQ(result.error(), "no such command");
  EXPECT_TRUE(gone());
  EXPECT_FALSE(fs::exists(folder()));
  EXPECT_TRUE(sandboxes_.all().empty());
}

TEST_F(IncarnationTest, NothingStartsWithoutALease) {
  lease_.set_deadline_ns(boot_time_ns() + 500'000'000);
  EXPECT_EQ(result_of(start(1, spec())).failure(), pb::FAILURE_UNFIT_NODE);
  EXPECT_TRUE(sandboxes_.all().empty());
}

TEST_F(IncarnationTest, StaleOrdersAreRefused) {
  EXPECT_EQ(result_of(start(2, spec())).failure(), pb::FAILURE_NONE);
  EXPECT_EQ(result_of(start(1, spec())).failure(), pb::FAILURE_STALE);
  EXPECT_EQ(result_of(start(2, spec())).failure(), pb::FAILURE_STALE);
  EXPECT_EQ(result_of(freeze()).failure(), pb::FAILURE_STALE);
  EXPECT_EQ(result_of(kill()).failure(), pb::FAILURE_NONE) << "there is nothing to kill";
}

TEST_F(IncarnationTest, NewerGenerationWaitsUntilTheOlderOneIsGone) {
  result_of(start(1, spec()));
  auto older = sandbox(1);
  EXPECT_EQ(result_of(start(2, spec())).failure(), pb::FAILURE_NONE);
  EXPECT_TRUE(older->exit());
  EXPECT_FALSE(fs::exists(folder(1)));
}

TEST_F(IncarnationTest, KillShipsLastWordsAndReportsNoExit) {
  result_of(start(1, spec()));
  sandbox()->print("last words");
  EXPECT_EQ(result_of(kill()).failure(), pb::FAILURE_NONE);
  EXPECT_EQ(link_.output_, "last words");
  EXPECT_TRUE(link_.exits_.empty());
  EXPECT_TRUE(gone());
}

TEST_F(IncarnationTest, CheckpointsComeAtTheirIntervalAndNeverTwoAtOnce) {
  result_of(start(1, spec(30)));
  ASSERT_TRUE(link_.wait_until([](FakeLink& link) { return link.uploads_.size() >= 4; }));
  EXPECT_EQ(engine_.most_at_once, 1);
  EXPECT_EQ(engine_.preflights, 1) << "one proof is enough while the shape stays";
}

TEST_F(IncarnationTest, PreflightIsRepeatedWhenTheShapeChanges) {
  result_of(start(1, spec(20)));
  ASSERT_TRUE(link_.wait_until([](FakeLink& link) {
    return std::ranges::any_of(link.reports_, &pb::CheckpointReport::preflight);
  }));
  EXPECT_EQ(link_.reports_[0].failure(), pb::FAILURE_NONE);
  EXPECT_EQ(link_.reports_[0].checkpoint(), 1u);
  result_of(checkpoint());
  engine_.shape = "file,inotify";
  ASSERT_TRUE(link_.wait_until([](FakeLink& link) {
    return std::ranges::count_if(link.reports_, &pb::CheckpointReport::preflight) == 2;
  }));
}

TEST_F(IncarnationTest, FailedPreflightIsReportedAndTheJobRunsOn) {
  engine_.on_restore = [](const RestoreOptions&) -> Status {
    return fail(ErrorCode::Internal, "can't open the outside pty");
  };
  result_of(start(1, spec(20)));
  ASSERT_TRUE(link_.wait_until([](FakeLink& link) { return !link.reports_.empty(); }));
  EXPECT_TRUE(link_.reports_[0].preflight());
  EXPECT_EQ(link_.reports_[0].failure(), pb::FAILURE_INTERNAL);
  EXPECT_EQ(link_.reports_[0].log_tail(), "the log's tail");
  EXPECT_FALSE(sandbox()->exit());
}

// A job that stands still does not share the processor with a proof that nobody waits for.
TEST_F(IncarnationTest, APreflightGivesWayToAFreezeAndIsMadeUpFor) {
  std::atomic<bool> began = false, gave_way = false;
  engine_.on_restore = [&](const RestoreOptions& options) -> Status {
    if (began.exchange(true)) return {};
    while (!options.given_up.stop_requested()) std::this_thread::yield();
    gave_way = true;
    return fail(ErrorCode::Cancelled, "given up");
  };
  result_of(start(1, spec(20)));
  ASSERT_TRUE(link_.wait_until([&](FakeLink&) { return began.load(); }));
  EXPECT_EQ(result_of(freeze()).failure(), pb::FAILURE_NONE);
  EXPECT_TRUE(link_.wait_until([&](FakeLink& link) {
    return gave_way && std::ranges::none_of(link.reports_, &pb::CheckpointReport::preflight);
  }));
  result_of(release(false));
  EXPECT_TRUE(link_.wait_until([](FakeLink& link) {
    return std::ranges::any_of(link.reports_, &pb::CheckpointReport::preflight);
  }));
}

// What was assumed of a held job is looked at while its checkpoint is sent.
TEST_F(IncarnationTest, AHeldCheckpointThatProvesWrongIsTakenAgainAndNeverCommitted) {
  result_of(start(1, spec()));
  engine_.mistakes = 1;
  const auto result = result_of(freeze());
  EXPECT_EQ(result.failure(), pb::FAILURE_NONE) << result.error();
  EXPECT_TRUE(link_.wait_until([](FakeLink& link) { return link.uploads_.size() == 1; }));
  EXPECT_EQ(engine_.checkpoints, 2);
  result_of(release(false));
}

// Where the checkpoint was taken nothing can be missing that it holds: it will be missing
// elsewhere.
TEST_F(IncarnationTest, APreflightThatMissesAFileIsReported) {
  engine_.on_restore = [](const RestoreOptions&) -> Status {
    return fail(ErrorCode::NotFound, "dev/x, which the job had open, is missing on this node");
  };
  result_of(start(1, spec(20)));
  ASSERT_TRUE(link_.wait_until([](FakeLink& link) { return !link.reports_.empty(); }));
  EXPECT_TRUE(link_.reports_[0].preflight());
  EXPECT_NE(link_.reports_[0].failure(), pb::FAILURE_NONE);
}

TEST_F(IncarnationTest, FullDiskIsReportedAndTheJobRunsOn) {
  engine_.on_checkpoint = [] { return Status(fail(ErrorCode::NoSpace, "write /x: no space")); };
  result_of(start(1, spec()));
  const auto result = result_of(checkpoint());
  EXPECT_EQ(result.failure(), pb::FAILURE_NO_SPACE);
  EXPECT_EQ(result.error(), "disk of node node-1 full: write /x: no space");
  EXPECT_FALSE(sandbox()->exit());
  engine_.on_checkpoint = [] { return Status(); };
  EXPECT_EQ(result_of(checkpoint()).checkpoint(), 1u);
  ASSERT_TRUE(link_.wait_until([](FakeLink& link) { return link.reports_.size() >= 2; }));
  EXPECT_EQ(link_.reports_[0].failure(), pb::FAILURE_NO_SPACE);
  EXPECT_EQ(link_.reports_[1].failure(), pb::FAILURE_NONE) << "all is well again";
}

TEST_F(IncarnationTest, BrokenIncarnationIsEndedAndReportedLost) {
  engine_.on_checkpoint = [] { return Status(fail(ErrorCode::Damaged, "criu was killed")); };
  result_of(start(1, spec()));
  EXPECT_EQ(result_of(checkpoint()).failure(), pb::FAILURE_BROKEN_INCARNATION);
  ASSERT_TRUE(link_.wait_until([](FakeLink& link) { return !link.exits_.empty(); }));
  EXPECT_EQ(link_.exits_[0].cause(), "lost");
  EXPECT_EQ(link_.exits_[0].detail(), "criu was killed");
  EXPECT_TRUE(gone());
}

// CRIU dies with everything in the sandbox when the job ends by itself, before the end can be seen.
TEST_F(IncarnationTest, AJobThatEndsDuringItsCheckpointHasEnded) {
  const SandboxExit end{SandboxExit::Kind::Exited, 5, 0};
  engine_.on_checkpoint = [&] {
    sandbox()->leave_word(end);
    return Status(fail(ErrorCode::Damaged, "criu ended without an answer"));
  };
  result_of(start(1, spec()));
  EXPECT_NE(result_of(checkpoint()).failure(), pb::FAILURE_BROKEN_INCARNATION);
  sandbox()->end(end);
  ASSERT_TRUE(link_.wait_until([](FakeLink& link) { return !link.exits_.empty(); }));
  EXPECT_EQ(link_.exits_[0].cause(), "exited");
  EXPECT_EQ(link_.exits_[0].code(), 5);
  EXPECT_TRUE(gone());
}

// A renewal that comes while its sandbox is being made finds nobody to tell.
TEST_F(IncarnationTest, ANewSandboxIsToldOfTheLeaseOfNow) {
  EXPECT_EQ(result_of(start(1, spec())).failure(), pb::FAILURE_NONE);
  ASSERT_TRUE(sandbox()->wait_for_deadline());
  EXPECT_EQ(sandbox()->deadlines().front(), lease_.deadline_ns());
}

TEST_F(IncarnationTest, HeldUntilReleasedToKill) {
  result_of(start(1, spec()));
  sandbox()->print("before");
  const auto held = result_of(freeze());
  EXPECT_EQ(held.failure(), pb::FAILURE_NONE);
  EXPECT_EQ(held.checkpoint(), 1u);
  EXPECT_GE(held.frozen_for_ms(), 5.0);
  EXPECT_EQ(state(), pb::INCARNATION_HELD);
  EXPECT_TRUE(link_.uploads_[0].hold());
  EXPECT_EQ(link_.output_, "before") << "a checkpoint's output is shipped before it";
  auto source = sandbox();
  EXPECT_TRUE(source->dies_with_agent());
  EXPECT_FALSE(source->exit());
  EXPECT_EQ(result_of(release(true)).failure(), pb::FAILURE_NONE);
  EXPECT_TRUE(source->exit());
  EXPECT_TRUE(gone());
  EXPECT_TRUE(link_.exits_.empty()) << "it moved, it did not end";
}

TEST_F(IncarnationTest, HeldUntilReleasedToResume) {
  result_of(start(1, spec()));
  result_of(freeze());
  EXPECT_EQ(result_of(release(false)).failure(), pb::FAILURE_NONE);
  EXPECT_EQ(state(), pb::INCARNATION_RUNNING);
  EXPECT_FALSE(sandbox()->dies_with_agent());
  EXPECT_FALSE(sandbox()->exit());
  EXPECT_EQ(result_of(checkpoint()).checkpoint(), 2u) << "it lives on as before";
}

TEST_F(IncarnationTest, NotHeldWhenItsCheckpointWasNotShipped) {
  result_of(start(1, spec()));
  link_.on_call = [](std::string_view call) -> Status {
    if (call == "upload") return fail(ErrorCode::Unavailable, "the connection broke");
    return {};
  };
  const auto result = result_of(freeze());
  EXPECT_EQ(result.error(), "the connection broke");
  EXPECT_EQ(state(), pb::INCARNATION_RUNNING);
  EXPECT_FALSE(sandbox()->dies_with_agent());
  EXPECT_FALSE(sandbox()->exit());
}

TEST_F(IncarnationTest, NotHeldWhenItCantBeArmed) {
  result_of(start(1, spec()));
  sandbox()->refuses_to_arm = true;
  EXPECT_NE(result_of(freeze()).failure(), pb::FAILURE_NONE);
  EXPECT_EQ(state(), pb::INCARNATION_RUNNING);
}

TEST_F(IncarnationTest, FailedFreezeIsAnsweredAndTheJobRunsOn) {
  engine_.on_checkpoint = [] { return Status(fail(ErrorCode::Refused, "io_uring: …")); };
  result_of(start(1, spec()));
  EXPECT_EQ(result_of(freeze()).failure(), pb::FAILURE_REFUSED);
  EXPECT_EQ(state(), pb::INCARNATION_RUNNING);
  EXPECT_FALSE(sandbox()->exit());
}

TEST_F(IncarnationTest, FencedWhileHeldIsReported) {
  result_of(start(1, spec()));
  result_of(freeze());
  sandbox()->end({SandboxExit::Kind::Fenced, 137, 0});
  ASSERT_TRUE(link_.wait_until([](FakeLink& link) { return !link.exits_.empty(); }));
  EXPECT_EQ(link_.exits_[0].cause(), "fenced");
  EXPECT_TRUE(gone());
}

TEST_F(IncarnationTest, RestoresFromTheControllerAndThenFromItsOwnCopy) {
  link_.output_ = "twelve bytes";
  link_.stored.set_job_id(7);
  const auto first = result_of(restore(1, 4));
  EXPECT_EQ(first.failure(), pb::FAILURE_NONE) << first.error();
  EXPECT_EQ(engine_.restores, 1);
  EXPECT_EQ(link_.downloads_, 1);
  EXPECT_EQ(result_of(restore(2, 4)).failure(), pb::FAILURE_NONE);
  EXPECT_EQ(engine_.restores, 2);
  EXPECT_EQ(link_.downloads_, 1) << "the copy was there";
  // A damaged copy is no copy.
  for (const auto& entry : fs::recursive_directory_iterator(root_ / "copies"))
    if (entry.path().filename() == "core.img") std::ofstream(entry.path()) << "registerz";
  EXPECT_EQ(result_of(restore(3, 4)).failure(), pb::FAILURE_NONE);
  EXPECT_EQ(link_.downloads_, 2);
}

TEST_F(IncarnationTest, RestoreThatFailsSaysWhyAndLeavesNothing) {
  engine_.on_restore = [](const RestoreOptions&) -> Status {
    return fail(ErrorCode::Damaged, "pages-1.img: Unexpected end");
  };
  link_.stored.set_job_id(7);
  const auto result = result_of(restore(1, 4));
  EXPECT_EQ(result.failure(), pb::FAILURE_DAMAGED_CHECKPOINT);
  EXPECT_EQ(result.error(), "pages-1.img: Unexpected end");
  EXPECT_EQ(result.log_tail(), "the log's tail");
  EXPECT_TRUE(gone());
  EXPECT_FALSE(fs::exists(folder()));
  EXPECT_EQ(copies_->find(JobId(7)), nullptr) << "a copy that does not restore is not kept";
}

TEST_F(IncarnationTest, RestartedAgentAdoptsWhatRuns) {
  result_of(start(1, spec(20)));
  sandbox()->print("a");
  auto before = sandbox();
  restart_agent();
  EXPECT_EQ(state(), pb::INCARNATION_RUNNING);
  EXPECT_EQ(sandbox(), before);
  sandbox()->print("b");
  sandbox()->end({SandboxExit::Kind::Exited, 0, 2});
  ASSERT_TRUE(link_.wait_until([](FakeLink& link) { return !link.exits_.empty(); }));
  EXPECT_EQ(link_.output_, "ab");
}

TEST_F(IncarnationTest, ARestartedAgentBuildsOnTheCheckpointThatItHas) {
  result_of(start(1, spec()));
  EXPECT_EQ(result_of(checkpoint()).checkpoint(), 1u);
  ASSERT_TRUE(link_.wait_until([&](FakeLink&) { return copies_->find(JobId(7)) != nullptr; }));
  restart_agent();
  EXPECT_EQ(result_of(checkpoint()).checkpoint(), 2u);
  EXPECT_EQ(engine_.built_on, 1);
}

// A pack that went bad on this disk is in every later checkpoint, and each would be refused.
TEST_F(IncarnationTest, MemoryIsCopiedAnewWhenACheckpointArrivesDamaged) {
  link_.on_call = [](std::string_view call) -> Status {
    if (call == "upload") return fail(ErrorCode::Damaged, "packs/x arrived with a wrong checksum");
    return {};
  };
  result_of(start(1, spec()));
  EXPECT_EQ(result_of(checkpoint()).failure(), pb::FAILURE_DAMAGED_CHECKPOINT);
  EXPECT_EQ(engine_.copied_anew, 1);
  EXPECT_FALSE(sandbox()->exit());
  link_.on_call = [](std::string_view) { return Status(); };
  EXPECT_EQ(result_of(checkpoint()).failure(), pb::FAILURE_NONE);
  EXPECT_EQ(engine_.copied_anew, 1);
}

TEST_F(IncarnationTest, ExitWithoutAnAgentIsReportedByTheNext) {
  result_of(start(1, spec()));
  link_.on_call = [](std::string_view) { return Status(fail(ErrorCode::Unavailable, "away")); };
  sandbox()->end({SandboxExit::Kind::Exited, 5, 0});
  supervisor_.reset();
  EXPECT_TRUE(fs::exists(folder()));
  link_.on_call = [](std::string_view) { return Status(); };
  restart_agent();
  ASSERT_TRUE(link_.wait_until([](FakeLink& link) { return !link.exits_.empty(); }));
  EXPECT_EQ(link_.exits_[0].code(), 5);
  EXPECT_TRUE(gone());
  EXPECT_FALSE(fs::exists(folder()));
}

TEST_F(IncarnationTest, EndedIncarnationStaysOnTheRosterUntilItsExitIsKnown) {
  result_of(start(1, spec()));
  link_.on_call = [](std::string_view) { return Status(fail(ErrorCode::Unavailable, "away")); };
  sandbox()->end({SandboxExit::Kind::Exited, 0, 0});
  ::usleep(150'000);
  EXPECT_EQ(roster_.snapshot()->size(), 1u);
  link_.on_call = [](std::string_view) { return Status(); };
  EXPECT_TRUE(gone());
  EXPECT_EQ(link_.exits_.size(), 1u);
}

TEST_F(IncarnationTest, HalfMadeIncarnationOfADeadAgentIsRemoved) {
  result_of(start(1, spec()));
  supervisor_.reset();
  fs::remove(folder() / "running");
  auto sandbox_before = sandbox();
  supervisor_ = std::make_unique<Supervisor>(*node_);
  ASSERT_TRUE(supervisor_->adopt_all());
  EXPECT_TRUE(sandbox_before->exit());
  EXPECT_FALSE(fs::exists(folder()));
}

}  // namespace
}  // namespace baton::agent
