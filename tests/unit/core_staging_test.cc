// Copies of checkpoints at the target of a planned move, and on standbys.
#include "core_fixture.h"

namespace baton::core {
namespace {

class StagingTest : public ClusterTest {
 protected:
  StagingTest() {
    with_staging();
    config.policy.standby = false;
  }
  void migrate(const std::string& to = "") {
    apply(UserMigrate{.request = 2, .job = JobId(1), .to = NodeId(to)});
  }
  void checkpointed(std::uint64_t number) {
    commit(number);
    apply(OrderDone{.kind = OrderKind::Checkpoint,
                    .job = JobId(1),
                    .generation = Generation(1),
                    .node = NodeId("node-1"),
                    .checkpoint = CheckpointNumber(number)});
  }
  // Time passes until the other nodes' leases have run out; the first such output on the way.
  template <typename T>
  std::optional<T> outlive(const std::map<std::string, double>& nodes) {
    std::optional<T> found;
    auto look = [&] {
      if (!found) found = one<T>();
    };
    for (const TimeMs end = now + kTerm; now < end;) {
      now = std::min(end, now + 600);
      for (const auto& [node, cpu] : nodes) {
        beat(node, cpu);
        look();
      }
      apply(Tick{});
      look();
    }
    return found;
  }
  // "node-2 5": the order to keep checkpoint 5 on node-2.
  std::string stage_order() const {
    const auto order = one<StageCheckpoint>();
    return order ? fmt::format("{} {}", order->node, order->checkpoint.value) : "";
  }
};

class StandbyTest : public StagingTest {
 protected:
  StandbyTest() { config.policy.standby = true; }
};

TEST_F(StagingTest, APlannedMoveBringsCheckpointsBeforeItFreezes) {
  up("node-1");
  up("node-2");
  run("node-1", 1);
  migrate();
  EXPECT_EQ(stage_order(), "node-2 1");
  EXPECT_FALSE(one<FreezeIncarnation>());
  pass(2'000, {"node-1", "node-2"});
  staged("node-2", 1);
  EXPECT_TRUE(one<TakeCheckpoint>()) << "the first round was long: the job has written since";
  now += 50;
  checkpointed(2);
  EXPECT_EQ(stage_order(), "node-2 2");
  now += 30;
  staged("node-2", 2);
  ASSERT_TRUE(one<FreezeIncarnation>()) << "a round of 80 ms is short";
  frozen("node-1", 1, 3);
  const auto restore = one<RestoreIncarnation>();
  ASSERT_TRUE(restore);
  EXPECT_EQ(restore->node, NodeId("node-2"));
  done(OrderKind::Restore, "node-2", 2);
  ASSERT_EQ(moves.size(), 1u);
  EXPECT_TRUE(moves[0].timing.ok);
  EXPECT_EQ(moves[0].timing.stage_ms, 2'080);
}

TEST_F(StagingTest, ThereIsOneNewCheckpointEvenWhenTheFirstRoundIsShort) {
  up("node-1");
  up("node-2");
  run("node-1", 1);
  migrate();
  staged("node-2", 1);
  EXPECT_TRUE(one<TakeCheckpoint>());
  EXPECT_FALSE(one<FreezeIncarnation>());
}

TEST_F(StagingTest, AJobWithoutCheckpointsIsCheckpointedFirst) {
  up("node-1");
  up("node-2");
  run("node-1", 0);
  migrate();
  EXPECT_TRUE(one<TakeCheckpoint>());
  checkpointed(1);
  EXPECT_EQ(stage_order(), "node-2 1");
  staged("node-2", 1);
  EXPECT_TRUE(one<TakeCheckpoint>());
}

TEST_F(StagingTest, RoundsThatDoNotGetShorterEnd) {
  up("node-1");
  up("node-2");
  run("node-1", 1);
  migrate();
  std::uint64_t number = 1;
  int rounds = 0;
  while (!one<FreezeIncarnation>()) {
    now += 1'000;
    staged("node-2", number);
    ++rounds;
    ASSERT_LE(rounds, 4);
    if (one<TakeCheckpoint>()) checkpointed(++number);
  }
  EXPECT_EQ(rounds, 3);
}

TEST_F(StagingTest, CheckpointsTakenMeanwhileDoNotProlongARound) {
  up("node-1");
  up("node-2");
  run("node-1", 1);
  migrate();
  commit(2);
  EXPECT_EQ(stage_order(), "");
  staged("node-2", 1);
  EXPECT_TRUE(one<TakeCheckpoint>());
}

TEST_F(StagingTest, ATargetThatCantStageIsNoReasonNotToMove) {
  up("node-1");
  up("node-2");
  run("node-1", 1);
  migrate();
  staged("node-2", 1, FailureKind::NoSpace);
  EXPECT_TRUE(one<FreezeIncarnation>());
}

TEST_F(StagingTest, AnotherTargetIsFoundWhenTheFirstIsLost) {
  up("node-1");
  up("node-2");
  up("node-3");
  run("node-1", 1);
  migrate();
  EXPECT_EQ(stage_order(), "node-2 1");
  const auto order = outlive<StageCheckpoint>({{"node-1", 0.1}, {"node-3", 0.1}});
  ASSERT_TRUE(order);
  EXPECT_EQ(order->node, NodeId("node-3"));
  EXPECT_TRUE(moves.empty());
}

TEST_F(StagingTest, OrdersThatWereDroppedAreGivenAnew) {
  up("node-1");
  up("node-2");
  run("node-1", 1);
  migrate();
  up("node-2", {}, "b");
  EXPECT_EQ(stage_order(), "node-2 1");
}

TEST_F(StagingTest, ACheckpointThatIsBeingStagedIsInUse) {
  up("node-1");
  up("node-2");
  run("node-1", 1);
  migrate();
  commit(2);
  EXPECT_TRUE(cluster().checkpoint_in_use(JobId(1), CheckpointNumber(1)));
  staged("node-2", 1);
  EXPECT_FALSE(cluster().checkpoint_in_use(JobId(1), CheckpointNumber(1)));
}

TEST_F(StagingTest, AStopEndsTheRounds) {
  up("node-1");
  up("node-2");
  run("node-1", 1);
  migrate();
  apply(UserStop{.request = 3, .job = JobId(1)});
  EXPECT_TRUE(one<SignalIncarnation>());
  ASSERT_EQ(moves.size(), 1u);
  EXPECT_FALSE(moves[0].timing.ok);
  exited(1, ExitCause::Exited, 0);
  EXPECT_EQ(stage_order(), "node-2 0");
}

TEST_F(StagingTest, WhatAFailedMoveBroughtIsDropped) {
  up("node-1");
  up("node-2");
  run("node-1", 1);
  migrate();
  staged("node-2", 1, FailureKind::NoSpace);
  done(OrderKind::Freeze, "node-1", 1, FailureKind::Internal);
  ASSERT_EQ(moves.size(), 1u);
  EXPECT_EQ(stage_order(), "node-2 0");
}

TEST_F(StandbyTest, ASecondNodeFollowsTheNewestCheckpoint) {
  up("node-1");
  up("node-2");
  run("node-1", 1);
  EXPECT_EQ(stage_order(), "node-2 1");
  commit(2);
  EXPECT_EQ(stage_order(), "") << "one at a time";
  staged("node-2", 1);
  EXPECT_EQ(stage_order(), "node-2 2");
  EXPECT_EQ(cluster().standby(JobId(1)).ready, CheckpointNumber(1));
  staged("node-2", 2);
  EXPECT_EQ(cluster().standby(JobId(1)).ready, CheckpointNumber(2));
}

TEST_F(StandbyTest, ARecoveryGoesToTheStandby) {
  up("node-1");
  up("node-2");
  up("node-3");
  run("node-1", 1);
  ASSERT_EQ(stage_order(), "node-2 1");
  staged("node-2", 1);
  const auto restore = outlive<RestoreIncarnation>({{"node-2", 0.5}, {"node-3", 0.01}});
  ASSERT_TRUE(restore);
  EXPECT_EQ(restore->node, NodeId("node-2"));
}

TEST_F(StandbyTest, AnotherNodeStandsByWhenTheFirstIsCordonedOrLost) {
  up("node-1");
  up("node-2");
  up("node-3");
  run("node-1", 1);
  staged("node-2", 1);
  apply(CordonNode{.request = 3, .node = NodeId("node-2")});
  const auto orders = all<StageCheckpoint>();
  ASSERT_EQ(orders.size(), 2u);
  EXPECT_EQ(orders[0].node, NodeId("node-2"));
  EXPECT_EQ(orders[0].checkpoint, CheckpointNumber(0));
  EXPECT_EQ(orders[1].node, NodeId("node-3"));
  staged("node-2", 0);
  staged("node-3", 1);
  apply(UncordonNode{.request = 4, .node = NodeId("node-2")});
  EXPECT_EQ(stage_order(), "");
  const auto order = outlive<StageCheckpoint>({{"node-1", 0.1}, {"node-2", 0.1}});
  ASSERT_TRUE(order);
  EXPECT_EQ(order->node, NodeId("node-2"));
}

TEST_F(StandbyTest, TheSourceOfAMoveStandsByOnceItHasLetTheJobGo) {
  up("node-1");
  up("node-2");
  run("node-1", 1);
  staged("node-2", 1);
  apply(UserMigrate{.request = 2, .job = JobId(1), .to = NodeId("node-2")});
  checkpointed(2);
  staged("node-2", 2);
  ASSERT_TRUE(one<FreezeIncarnation>());
  frozen("node-1", 1, 3);
  done(OrderKind::Restore, "node-2", 2);
  EXPECT_TRUE(one<ReleaseIncarnation>());
  EXPECT_EQ(stage_order(), "");
  done(OrderKind::Release, "node-1", 1);
  EXPECT_EQ(stage_order(), "node-1 3");
}

TEST_F(StandbyTest, ABusyNodeIsBetterThanNoneAndOneAboutToFailIsNot) {
  up("node-1");
  up("node-2");
  up("node-3");
  Heartbeat failing{.node = NodeId("node-2"), .epoch = "a"};
  failing.sample.about_to_fail = true;
  apply(failing);
  beat("node-3", 0.99);
  run("node-1", 1);
  EXPECT_EQ(stage_order(), "node-3 1");
}

TEST_F(StandbyTest, AnUnwillingNodeIsNotAskedAgainAtOnce) {
  up("node-1");
  up("node-2");
  run("node-1", 1);
  staged("node-2", 1, FailureKind::NoSpace);
  EXPECT_EQ(stage_order(), "node-2 0") << "what it has of it is to go";
  EXPECT_TRUE(told(event::kStaged, "can't stand by"));
  staged("node-2", 0);
  pass(10'000, {"node-1", "node-2"});
  EXPECT_EQ(cluster().standby(JobId(1)).node, NodeId());
  pass(config.standby_retry_ms, {"node-1", "node-2"});
  EXPECT_EQ(cluster().standby(JobId(1)).node, NodeId("node-2"));
}

TEST_F(StandbyTest, CopiesForNobodyAreDroppedOnce) {
  up("node-1");
  up("node-2");
  run("node-1", 1);
  staged("node-2", 1);
  Heartbeat heartbeat{.node = NodeId("node-2"), .epoch = "a"};
  heartbeat.staged = {{JobId(1), CheckpointNumber(1)}, {JobId(9), CheckpointNumber(4)}};
  apply(heartbeat);
  auto orders = all<StageCheckpoint>();
  ASSERT_EQ(orders.size(), 1u);
  EXPECT_EQ(orders[0].job, JobId(9));
  EXPECT_EQ(orders[0].checkpoint, CheckpointNumber(0));
  apply(heartbeat);
  EXPECT_TRUE(all<StageCheckpoint>().empty());
  staged("node-2", 0, FailureKind::None, 9);
  apply(heartbeat);
  EXPECT_EQ(all<StageCheckpoint>().size(), 1u) << "it is still there: told again";
}

TEST_F(StandbyTest, AStandbyIsTakenUpAgainAfterTheControllersRestart) {
  up("node-1");
  up("node-2");
  up("node-3");
  run("node-1", 2);
  staged("node-2", 1);
  staged("node-2", 2);
  restart_controller();
  up("node-1", {{JobId(1), Generation(1)}});
  NodeRegistered again{.facts = facts("node-2"), .epoch = "a"};
  again.staged = {{JobId(1), CheckpointNumber(2)}};
  apply(again);
  EXPECT_TRUE(all<StageCheckpoint>().empty());
  EXPECT_EQ(cluster().standby(JobId(1)).node, NodeId("node-2"));
  EXPECT_EQ(cluster().standby(JobId(1)).ready, CheckpointNumber(2));
}

TEST_F(StandbyTest, TheCopyOfAJobThatEndedIsDropped) {
  up("node-1");
  up("node-2");
  run("node-1", 1);
  staged("node-2", 1);
  exited(1, ExitCause::Exited, 0);
  EXPECT_EQ(stage_order(), "node-2 0");
}

}  // namespace
}  // namespace baton::core
