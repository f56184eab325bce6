// Promise 1: when another incarnation may be started, and when not.
#include "core_fixture.h"

namespace baton::core {
namespace {

using Lease = ClusterTest;

TEST_F(Lease, RecoversOnlyWhenTheLeaseHasRunOut) {
  up("node-1");
  up("node-2");
  run("node-1");
  const TimeMs last_heartbeat = now;
  beat("node-1");
  now = last_heartbeat + kTerm - 1;
  beat("node-2");
  EXPECT_EQ(job().state, JobState::Running);
  EXPECT_FALSE(one<RestoreIncarnation>());
  now = last_heartbeat + kTerm;
  apply(Tick{});
  EXPECT_TRUE(told(event::kNodeLost));
  const auto restore = one<RestoreIncarnation>();
  ASSERT_TRUE(restore);
  EXPECT_EQ(restore->node, NodeId("node-2"));
  EXPECT_EQ(restore->generation, Generation(2));
  EXPECT_EQ(restore->checkpoint, CheckpointNumber(1));
  EXPECT_EQ(one<RollBackOutput>()->bytes, 100u);
  EXPECT_EQ(job().state, JobState::Recovering);
}

TEST_F(Lease, ALateHeartbeatDoesNotReviveALostNode) {
  up("node-1");
  up("node-2");
  run("node-1");
  now += kTerm;
  beat("node-1");  // no Tick came first: the lease counts, not the timer
  EXPECT_FALSE(one<AnswerHeartbeat>()->renewed);
  EXPECT_TRUE(told(event::kNodeLost));
}

TEST_F(Lease, TheNextDeadlineIsTheEarliestLease) {
  up("node-1");
  EXPECT_EQ(cluster().next_deadline(), now + kTerm);
  const TimeMs first = now;
  now += 100;
  up("node-2");
  EXPECT_EQ(cluster().next_deadline(), first + kTerm);
}

TEST_F(Lease, ASupersededIncarnationIsEndedWhenItsNodeReturns) {
  up("node-1");
  up("node-2");
  run("node-1");
  pass(kTerm, {"node-2"});
  done(OrderKind::Restore, "node-2", 2);
  EXPECT_EQ(job().current->node, NodeId("node-2"));
  up("node-1", {{JobId(1), Generation(1)}});
  const auto answer = one<AnswerRegister>();
  ASSERT_EQ(answer->kill.size(), 1u);
  EXPECT_EQ(answer->kill[0].generation, Generation(1));
}

TEST_F(Lease, NothingOfALostNodeIsAdoptedAgain) {
  up("node-1");
  run("node-1");
  pass(kTerm, {});
  EXPECT_EQ(job().state, JobState::Recovering);
  up("node-1", {{JobId(1), Generation(1)}}, "a");
  EXPECT_EQ(one<AnswerRegister>()->kill.size(), 1u);
  EXPECT_EQ(job().attempt->generation, Generation(2));
}

TEST_F(Lease, AnAgentThatIsBackWithoutTheJobMustConfirmThatItIsGone) {
  up("node-1");
  run("node-1");
  up("node-1", {}, "b");
  EXPECT_FALSE(one<RestoreIncarnation>());
  ASSERT_TRUE(one<KillIncarnation>());
  EXPECT_EQ(one<KillIncarnation>()->generation, Generation(1));
  done(OrderKind::Kill, "node-1", 1);
  EXPECT_TRUE(one<RestoreIncarnation>());
}

TEST_F(Lease, AHeartbeatOlderThanTheStartDoesNoHarm) {
  up("node-1");
  run("node-1");
  lists["node-1"].clear();
  beat("node-1");
  beat("node-1");
  beat("node-1");
  EXPECT_FALSE(one<KillIncarnation>());
  pass(2'000, {"node-1"});
  EXPECT_EQ(job().state, JobState::Running);
  bool asked = false;  // but a whole lease without it is a reason to ask
  for (int i = 0; i < 5 && !asked; ++i) {
    now += 600;
    beat("node-1");
    asked = one<KillIncarnation>().has_value();
  }
  EXPECT_TRUE(asked);
  EXPECT_FALSE(job().attempt);
  done(OrderKind::Kill, "node-1", 1);
  EXPECT_TRUE(told(event::kIncarnationLost));
}

TEST_F(Lease, AnEpochThatWasSupersededIsRefused) {
  up("node-1", {}, "a");
  up("node-1", {}, "b");
  up("node-1", {}, "a");
  EXPECT_FALSE(one<AnswerRegister>()->refused.empty());
  EXPECT_FALSE(one<DropOrders>());
}

TEST_F(Lease, AnotherMachineOfTheSameNameWaitsForTheLease) {
  apply(NodeRegistered{.facts = facts("node-1"), .epoch = "a", .boot_id = "x"});
  apply(NodeRegistered{.facts = facts("node-1"), .epoch = "b", .boot_id = "y"});
  EXPECT_FALSE(one<AnswerRegister>()->refused.empty());
  now += kTerm;
  apply(NodeRegistered{.facts = facts("node-1"), .epoch = "b", .boot_id = "y"});
  EXPECT_TRUE(one<AnswerRegister>()->refused.empty());
}

TEST_F(Lease, AfterARestartNothingIsRecoveredBeforeTheGraceIsOver) {
  up("node-1");
  up("node-2");
  run("node-1");
  now += kTerm - 1;
  restart_controller();
  up("node-2", {}, "a");
  now += kTerm - 1;
  beat("node-2");
  EXPECT_EQ(job().state, JobState::Running);
  now += 1;
  apply(Tick{});
  EXPECT_EQ(job().state, JobState::Recovering);
}

TEST_F(Lease, AfterARestartAReportedIncarnationIsAdopted) {
  up("node-1");
  run("node-1");
  restart_controller();
  beat("node-1");
  EXPECT_FALSE(one<AnswerHeartbeat>()->renewed);
  up("node-1", {{JobId(1), Generation(1)}});
  EXPECT_TRUE(one<AnswerRegister>()->kill.empty());
  EXPECT_TRUE(told(event::kNodeUp, "is back")) << "who waits for it waits for an event";
  pass(20'000, {"node-1"});
  EXPECT_EQ(job().state, JobState::Running);
  EXPECT_EQ(job().current->generation, Generation(1));
}

TEST_F(Lease, AfterARestartARestoreUnderWayIsTakenUp) {
  up("node-1");
  up("node-2");
  run("node-1");
  apply(UserMigrate{5, JobId(1), NodeId("node-2")});
  frozen("node-1", 1, 2);
  ASSERT_TRUE(one<RestoreIncarnation>());
  restart_controller();
  up("node-2", {{JobId(1), Generation(2), IncarnationState::Starting}});
  ASSERT_TRUE(one<RestoreIncarnation>());  // asked again; the agent takes it for one
  EXPECT_EQ(one<RestoreIncarnation>()->generation, Generation(2));
  up("node-1", {{JobId(1), Generation(1), IncarnationState::Held}});
  EXPECT_FALSE(one<ReleaseIncarnation>());
  done(OrderKind::Restore, "node-2", 2);
  EXPECT_TRUE(one<ReleaseIncarnation>()->kill);
  EXPECT_EQ(job().current->node, NodeId("node-2"));
}

TEST_F(Lease, AfterARestartAHeldSourceWithoutAnAttemptRunsOn) {
  up("node-1");
  up("node-2");
  run("node-1");
  apply(UserMigrate{5, JobId(1), NodeId("node-2")});
  restart_controller();
  up("node-1", {{JobId(1), Generation(1), IncarnationState::Held}});
  ASSERT_TRUE(one<ReleaseIncarnation>());
  EXPECT_FALSE(one<ReleaseIncarnation>()->kill);
  done(OrderKind::Release, "node-1", 1);
  EXPECT_EQ(job().state, JobState::Running);
}

TEST_F(Lease, StandingTellsWhoMayCommit) {
  up("node-1");
  up("node-2");
  run("node-1");
  EXPECT_EQ(cluster().standing(JobId(1), Generation(1)), Standing::Current);
  pass(kTerm, {"node-2"});
  EXPECT_EQ(cluster().standing(JobId(1), Generation(1)), Standing::Stale);
  EXPECT_EQ(cluster().standing(JobId(1), Generation(2)), Standing::Attempt);
  done(OrderKind::Restore, "node-2", 2);
  EXPECT_EQ(cluster().standing(JobId(1), Generation(2)), Standing::Current);
  EXPECT_EQ(cluster().standing(JobId(7), Generation(1)), Standing::Stale);
}

TEST_F(Lease, ACheckpointOfASupersededIncarnationIsNeverUsed) {
  up("node-1");
  up("node-2");
  run("node-1");
  pass(kTerm, {"node-2"});
  done(OrderKind::Restore, "node-2", 2);
  commit(9, 1);
  ASSERT_TRUE(one<QuarantineCheckpoint>());
  EXPECT_EQ(one<QuarantineCheckpoint>()->number, CheckpointNumber(9));
}

}  // namespace
}  // namespace baton::core
