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

TEST_F(StagingTest, AMoveAwaitsTheMemoryThere) {
  up("node-1");
  up("node-2");
  run("node-1", 1);
  migrate();
  ASSERT_TRUE(one<StageCheckpoint>());
  EXPECT_TRUE(one<StageCheckpoint>()->await_memory);
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

// ------------------------------------------------------------------ limits of a move

class LimitsTest : public StagingTest {
 protected:
  void SetUp() override {
    up("node-1");
    up("node-2");
    run("node-1", 1);
  }
  void migrate_within(MoveLimits limits) {
    apply(UserMigrate{.request = 2, .job = JobId(1), .to = NodeId("node-2"), .limits = limits});
  }
  // One that takes so long, checkpoint and all.
  void round(TimeMs ms) {
    if (one<TakeCheckpoint>()) checkpointed(++newest_);
    pass(ms, {"node-1", "node-2"});
    staged("node-2", newest_);
  }
  void expect_undone(const std::string& why) {
    ASSERT_EQ(moves.size(), 1u);
    EXPECT_FALSE(moves[0].timing.ok);
    EXPECT_NE(moves[0].timing.error.find(why), std::string::npos) << moves[0].timing.error;
    EXPECT_EQ(job().state, JobState::Running);
    EXPECT_EQ(job().current->node, NodeId("node-1"));
    EXPECT_EQ(job().current->generation, Generation(1));
  }
  std::uint64_t newest_ = 1;
};

TEST_F(LimitsTest, AMoveWithADeadlineAwaitsNoMemory) {
  migrate_within({.deadline_ms = 10'000});
  ASSERT_TRUE(one<StageCheckpoint>());
  EXPECT_FALSE(one<StageCheckpoint>()->await_memory);
}

TEST_F(LimitsTest, ANodeThatIsAboutToFailAwaitsNoMemory) {
  Heartbeat heartbeat{
      .node = NodeId("node-1"), .epoch = epochs["node-1"], .incarnations = lists["node-1"]};
  heartbeat.sample.about_to_fail = true;
  apply(heartbeat);
  ASSERT_TRUE(one<StageCheckpoint>());
  EXPECT_FALSE(one<StageCheckpoint>()->await_memory);
}

// Nobody awaits it in the freeze.
TEST_F(LimitsTest, AwaitingTheMemoryIsNotExpectedOfTheFreeze) {
  migrate_within({.max_downtime_ms = 500});
  for (int i = 0; i < 2; ++i) {
    if (one<TakeCheckpoint>()) checkpointed(++newest_);
    pass(4'100, {"node-1", "node-2"});
    EXPECT_FALSE(one<FreezeIncarnation>());
    apply(OrderDone{.kind = OrderKind::Stage,
                    .job = JobId(1),
                    .node = NodeId("node-2"),
                    .checkpoint = CheckpointNumber(newest_),
                    .memory_ms = 4'000});
  }
  EXPECT_TRUE(one<FreezeIncarnation>());
}

TEST_F(LimitsTest, ADeadlineThatPassesDuringARoundLeavesTheJobAsItIs) {
  migrate_within({.deadline_ms = 10'000});
  pass(9'000, {"node-1", "node-2"});
  EXPECT_TRUE(moves.empty());
  pass(1'200, {"node-1", "node-2"});
  expect_undone("not done in the time");
}

TEST_F(LimitsTest, ADeadlineThatPassesWhileItIsHeldResumesIt) {
  migrate_within({.deadline_ms = 3'000});
  round(100);
  round(100);
  ASSERT_TRUE(one<FreezeIncarnation>());
  frozen("node-1", 1, ++newest_);
  ASSERT_TRUE(one<RestoreIncarnation>());
  pass(3'000, {"node-1", "node-2"});
  EXPECT_TRUE(job().attempt) << "the target must be known not to run it before the source does";
  done(OrderKind::Kill, "node-2", 2);
  const auto release = one<ReleaseIncarnation>();
  ASSERT_TRUE(release);
  EXPECT_FALSE(release->kill);
  done(OrderKind::Release, "node-1", 1);
  expect_undone("not done in the time");
}

TEST_F(LimitsTest, ADeadlineThatPassesWhileItIsBeingFrozenResumesItOnceItIs) {
  migrate_within({.deadline_ms = 1'000});
  round(100);
  round(100);
  ASSERT_TRUE(one<FreezeIncarnation>());
  pass(1'200, {"node-1", "node-2"});
  EXPECT_TRUE(moves.empty());
  frozen("node-1", 1, ++newest_);
  EXPECT_FALSE(one<RestoreIncarnation>());
  EXPECT_TRUE(one<ReleaseIncarnation>());
  done(OrderKind::Release, "node-1", 1);
  expect_undone("not done in the time");
}

TEST_F(LimitsTest, ThereIsNoFurtherRoundWhenItWouldPassTheDeadline) {
  migrate_within({.deadline_ms = 3'740});
  round(1'000);
  round(900);
  EXPECT_FALSE(one<FreezeIncarnation>()) << "1840 ms are left for two times 900";
  round(620);
  EXPECT_TRUE(one<FreezeIncarnation>()) << "1220 ms are left for two times 620";
}

TEST_F(LimitsTest, ItIsNotFrozenWhenItIsExpectedToStandStillForTooLong) {
  migrate_within({.max_downtime_ms = 500});
  for (int n = 0; n < 8 && moves.empty(); ++n) {
    ASSERT_FALSE(one<FreezeIncarnation>());
    round(1'000);
  }
  expect_undone("stand still for about 1000 ms, more than 500 ms");
}

TEST_F(LimitsTest, MoreRoundsAreMadeUntilItIsExpectedToBeShortEnough) {
  migrate_within({.max_downtime_ms = 120});
  TimeMs ms = 4'000;
  int rounds = 0;
  for (; rounds < 16 && !one<FreezeIncarnation>(); ++rounds, ms = ms * 6 / 10) round(ms);
  ASSERT_TRUE(one<FreezeIncarnation>());
  EXPECT_EQ(rounds, 8) << "4000 * 0.6^7 = 111";
  frozen("node-1", 1, ++newest_);
  EXPECT_TRUE(one<RestoreIncarnation>());
}

TEST_F(LimitsTest, ItGoesOnWhereItWasWhenShippingTookTooLong) {
  migrate_within({.max_downtime_ms = 500});
  round(100);
  round(100);
  ASSERT_TRUE(one<FreezeIncarnation>());
  commit(++newest_);
  apply(OrderDone{.kind = OrderKind::Freeze,
                  .job = JobId(1),
                  .generation = Generation(1),
                  .node = NodeId("node-1"),
                  .checkpoint = CheckpointNumber(newest_),
                  .frozen_for_ms = 600});
  EXPECT_FALSE(one<RestoreIncarnation>());
  EXPECT_TRUE(one<ReleaseIncarnation>());
  done(OrderKind::Release, "node-1", 1);
  expect_undone("stood still for 600 ms already");
}

TEST_F(LimitsTest, ADrainEndsWithItsTimeAndTheNodeIsCordoned) {
  apply(DrainNode{.request = 3, .node = NodeId("node-1"), .deadline_ms = 5'000});
  ASSERT_TRUE(one<StageCheckpoint>());
  EXPECT_FALSE(one<StageCheckpoint>()->await_memory);
  pass(4'800, {"node-1", "node-2"});
  EXPECT_TRUE(moves.empty());
  pass(600, {"node-1", "node-2"});
  expect_undone("not done in the time");
  EXPECT_TRUE(told(event::kDrainOver, "left on it: loop"));
  EXPECT_FALSE(cluster().find_node(NodeId("node-1"))->draining);
  EXPECT_TRUE(cluster().find_node(NodeId("node-1"))->cordoned);
  pass(60'000, {"node-1", "node-2"});
  EXPECT_EQ(moves.size(), 1u) << "it was tried again";
}

TEST_F(LimitsTest, ADrainThatIsDoneInTimeGoesOn) {
  apply(DrainNode{.request = 3, .node = NodeId("node-1"), .deadline_ms = 5'000});
  round(100);
  round(100);
  frozen("node-1", 1, ++newest_);
  done(OrderKind::Restore, "node-2", 2);
  done(OrderKind::Release, "node-1", 1);
  lists["node-1"].clear();
  lists["node-2"] = {{JobId(1), Generation(2)}};
  pass(6'000, {"node-1", "node-2"});
  EXPECT_TRUE(told(event::kNodeDrained));
  EXPECT_FALSE(told(event::kDrainOver));
  EXPECT_TRUE(cluster().find_node(NodeId("node-1"))->draining);
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

// Of a lost node two jobs, the first of which runs again and the second is being restored; and two
// of other nodes, one of which had its standby there.
class RecoveriesFirstTest : public StandbyTest {
 protected:
  void SetUp() override {
    config.restore_attempts = 9;
    for (const char* node : {"node-1", "node-2", "node-3"}) up(node);
    run("node-2", 1, 1);
    beat("node-3", 0.99);
    for (const std::uint64_t id : {2, 3}) run("node-1", 1, id);
    beat("node-3");
    for (const std::uint64_t id : {1, 2, 3})
      staged(cluster().standby(JobId(id)).node.value, 1, FailureKind::None, id);
    ASSERT_EQ(cluster().standby(JobId(1)).node, NodeId("node-1"));
    for (const TimeMs end = now + kTerm; now < end && restores_.size() < 2;) {
      now = std::min(end, now + 600);
      for (const char* node : {"node-2", "node-3"}) {
        beat(node);
        note();
      }
      apply(Tick{});
      note();
    }
    ASSERT_EQ(restores_.size(), 2u);
    EXPECT_EQ(copied_, std::set<std::uint64_t>{});
    restored(2);
    note();
    EXPECT_EQ(copied_, std::set<std::uint64_t>{});
  }
  void note() {
    for (const auto& order : all<RestoreIncarnation>()) restores_[order.job.value] = order;
    for (const auto& order : all<StageCheckpoint>()) {
      if (order.checkpoint.value != 0) copied_.insert(order.job.value);
    }
  }
  void restored(std::uint64_t id) {
    const RestoreIncarnation& order = restores_[id];
    done(OrderKind::Restore, order.node.value, order.generation.value, FailureKind::None, id);
    lists[order.node.value].push_back({JobId(id), order.generation});
  }
  std::map<std::uint64_t, RestoreIncarnation> restores_;  // the newest of each job
  std::set<std::uint64_t> copied_;  // for which a node was told to keep a checkpoint
};

TEST_F(RecoveriesFirstTest, NewStandbysAreFilledWhenAllJobsRunAgain) {
  commit(2, 2, 2);
  note();
  EXPECT_EQ(copied_, std::set<std::uint64_t>{});
  restored(3);
  note();
  EXPECT_EQ(copied_, (std::set<std::uint64_t>{1, 2, 3}));
}

TEST_F(RecoveriesFirstTest, AnAttemptThatWaitsForItsNextIsNotWaitedFor) {
  done(OrderKind::Restore, restores_[3].node.value, 2, FailureKind::Internal, 3);
  note();
  if (one<RestoreIncarnation>())
    done(OrderKind::Restore, restores_[3].node.value, 3, FailureKind::Internal, 3);
  note();
  ASSERT_FALSE(one<RestoreIncarnation>());
  EXPECT_EQ(copied_, (std::set<std::uint64_t>{1, 2}));
}

TEST_F(RecoveriesFirstTest, RecoveriesThatBeginAnewAreNotWaitedForAnew) {
  const TimeMs began = now;
  const NodeId lost = restores_[3].node,
               left = lost == NodeId("node-2") ? NodeId("node-3") : NodeId("node-2");
  while (restores_[3].node == lost && now < began + 2 * kTerm) {
    now += 600;
    beat(left.value);
    note();
  }
  ASSERT_EQ(restores_[3].node, left);
  for (const std::uint64_t id : {1, 2}) {
    if (restores_.contains(id) && job(id).attempt) restored(id);
  }

  up("node-4");
  EXPECT_EQ(copied_, std::set<std::uint64_t>{});
  while (copied_.empty() && now < began + 30'000) {
    now += 600;
    for (const NodeId& node : {left, NodeId("node-4")}) {
      beat(node.value);
      note();
    }
  }
  EXPECT_GE(now, began + 9'000);
  EXPECT_LE(now, began + 11'000);
}

}  // namespace
}  // namespace baton::core
