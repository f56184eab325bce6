// Migration and recovery: each failure leaves the job running where it was, or restorable.
#include "core_fixture.h"

namespace baton::core {
namespace {

class Move : public ClusterTest {
 protected:
  void SetUp() override {
    up("node-1");
    up("node-2");
    run("node-1");
  }
  void migrate() {
    apply(UserMigrate{5, JobId(1), NodeId("node-2")});
    ASSERT_TRUE(one<Reply>()->status);
    ASSERT_TRUE(one<FreezeIncarnation>());
  }
};

TEST_F(Move, FreezesRestoresAndReleases) {
  migrate();
  EXPECT_EQ(job().state, JobState::Migrating);
  EXPECT_FALSE(one<RestoreIncarnation>());
  now += 50;
  frozen("node-1", 1, 2);
  ASSERT_TRUE(one<RestoreIncarnation>());
  EXPECT_EQ(one<RestoreIncarnation>()->checkpoint, CheckpointNumber(2));
  EXPECT_EQ(one<RollBackOutput>()->generation, Generation(2));
  EXPECT_FALSE(one<ReleaseIncarnation>());
  now += 100;
  apply(OrderDone{.kind = OrderKind::Restore,
                  .job = JobId(1),
                  .generation = Generation(2),
                  .node = NodeId("node-2"),
                  .fetch_ms = 30,
                  .restore_ms = 40,
                  .running_for_ms = 5});
  ASSERT_TRUE(one<ReleaseIncarnation>());
  EXPECT_TRUE(one<ReleaseIncarnation>()->kill);
  EXPECT_EQ(one<ReleaseIncarnation>()->node, NodeId("node-1"));
  EXPECT_EQ(job().state, JobState::Running);
  ASSERT_EQ(moves.size(), 1u);
  EXPECT_TRUE(moves[0].timing.ok);
  EXPECT_EQ(moves[0].requests, std::vector<RequestId>{5});
  EXPECT_DOUBLE_EQ(moves[0].timing.transfer_ms, 50 + 30);
  EXPECT_DOUBLE_EQ(moves[0].timing.restore_ms, 40);
  EXPECT_DOUBLE_EQ(moves[0].timing.downtime_ms, 20 + 100 - 5);
}

struct FreezeFailure {
  FailureKind kind;
  bool unprotected;
};
class FreezeFails : public Move, public ::testing::WithParamInterface<FreezeFailure> {};

TEST_P(FreezeFails, AndTheJobRunsOn) {
  migrate();
  done(OrderKind::Freeze, "node-1", 1, GetParam().kind);
  EXPECT_EQ(job().state, JobState::Running);
  EXPECT_EQ(job().current->generation, Generation(1));
  EXPECT_FALSE(one<KillIncarnation>());
  EXPECT_EQ(!job().unprotected_cause.empty(), GetParam().unprotected);
  ASSERT_EQ(moves.size(), 1u);
  EXPECT_FALSE(moves[0].timing.ok);
  EXPECT_NE(moves[0].timing.error.find("because of the test"), std::string::npos);
}
INSTANTIATE_TEST_SUITE_P(Kinds, FreezeFails,
                         ::testing::Values(FreezeFailure{FailureKind::Internal, false},
                                           FreezeFailure{FailureKind::NoSpace, false},
                                           FreezeFailure{FailureKind::Stale, false},
                                           FreezeFailure{FailureKind::Refused, true}));

TEST_F(Move, AFreezeThatBrokeTheJobIsARecovery) {
  migrate();
  done(OrderKind::Freeze, "node-1", 1, FailureKind::BrokenIncarnation);
  EXPECT_TRUE(told(event::kIncarnationLost));
  ASSERT_TRUE(job().attempt);
  EXPECT_EQ(job().attempt->from, CheckpointNumber(1));
}

class RestoreFails : public Move, public ::testing::WithParamInterface<FailureKind> {};

TEST_P(RestoreFails, AndTheSourceResumes) {
  migrate();
  frozen("node-1", 1, 2);
  done(OrderKind::Restore, "node-2", 2, GetParam());
  const auto release = one<ReleaseIncarnation>();
  ASSERT_TRUE(release);
  EXPECT_FALSE(release->kill);
  EXPECT_EQ(release->generation, Generation(1));
  EXPECT_EQ(one<RollBackOutput>()->generation, Generation(1));
  EXPECT_EQ(one<RollBackOutput>()->bytes, 200u);
  done(OrderKind::Release, "node-1", 1);
  EXPECT_EQ(job().state, JobState::Running);
  EXPECT_EQ(job().current->node, NodeId("node-1"));
  ASSERT_EQ(moves.size(), 1u);
  EXPECT_FALSE(moves[0].timing.ok);
  EXPECT_EQ(told(event::kQuarantined), GetParam() == FailureKind::DamagedCheckpoint);
}
INSTANTIATE_TEST_SUITE_P(Kinds, RestoreFails,
                         ::testing::Values(FailureKind::Internal, FailureKind::DamagedCheckpoint,
                                           FailureKind::UnfitNode, FailureKind::NoSpace));

TEST_F(Move, WithoutANamedTargetAnUnfitOneIsReplaced) {
  up("node-3");
  apply(UserMigrate{5, JobId(1), NodeId{}});
  frozen("node-1", 1, 2);
  ASSERT_EQ(one<RestoreIncarnation>()->node, NodeId("node-2"));
  done(OrderKind::Restore, "node-2", 2, FailureKind::UnfitNode);
  ASSERT_TRUE(one<RestoreIncarnation>());
  EXPECT_EQ(one<RestoreIncarnation>()->node, NodeId("node-3"));
  EXPECT_EQ(one<RestoreIncarnation>()->generation, Generation(3));
}

TEST_F(Move, ASilentTargetIsWaitedOutBeforeTheSourceResumes) {
  migrate();
  frozen("node-1", 1, 2);
  pass(kTerm - 600, {"node-1"});
  EXPECT_TRUE(job().attempt);
  EXPECT_EQ(job().current->state, IncarnationState::Held);
  pass(1'200, {"node-1"});
  EXPECT_FALSE(job().attempt);
  done(OrderKind::Release, "node-1", 1);
  EXPECT_EQ(job().state, JobState::Running);
  EXPECT_EQ(job().current->generation, Generation(1));
}

TEST_F(Move, WhenTheSourceIsLostTheRestoreGoesOn) {
  migrate();
  frozen("node-1", 1, 2);
  pass(kTerm + 600, {"node-2"});
  EXPECT_EQ(job().state, JobState::Recovering);
  EXPECT_EQ(job().attempt->generation, Generation(2));
  done(OrderKind::Restore, "node-2", 2);
  EXPECT_EQ(job().state, JobState::Running);
  ASSERT_EQ(moves.size(), 1u);
  EXPECT_TRUE(moves[0].timing.ok);
  EXPECT_EQ(moves[0].requests.size(), 1u);
}

TEST_F(Move, AnIncarnationThatIsOnlyRunningIsNeverDoubled) {
  migrate();
  for (int i = 0; i < 20; ++i) {
    pass(600, {"node-1", "node-2"});
    EXPECT_FALSE(job().attempt);
  }
}

TEST_F(Move, AnAgentThatReconnectsWhileFreezingFailsTheMove) {
  migrate();
  up("node-1", {{JobId(1), Generation(1)}}, "a");
  EXPECT_EQ(job().state, JobState::Running);
  EXPECT_EQ(moves.size(), 1u);
  // It got the order after all and holds still for nobody.
  lists["node-1"] = {{JobId(1), Generation(1), IncarnationState::Held}};
  beat("node-1");
  ASSERT_TRUE(one<ReleaseIncarnation>());
  EXPECT_FALSE(one<ReleaseIncarnation>()->kill);
}

TEST_F(Move, AnOldListThatSaysHeldIsNotBelievedForSafety) {
  lists["node-1"] = {{JobId(1), Generation(1), IncarnationState::Held}};
  beat("node-1");
  apply(UserMigrate{5, JobId(1), NodeId("node-2")});
  EXPECT_FALSE(one<RestoreIncarnation>());
  EXPECT_FALSE(job().attempt);
}

TEST_F(Move, TheJobMayEndWhileItIsBeingMoved) {
  migrate();
  exited(1, ExitCause::Exited, 0);
  EXPECT_EQ(job().state, JobState::Exited);
  EXPECT_EQ(job().exit_code, 0);
  EXPECT_EQ(moves.size(), 1u);
}

TEST_F(Move, AnEndReportedBeforeTheRestoreWasAnsweredCounts) {
  migrate();
  frozen("node-1", 1, 2);
  exited(2, ExitCause::Exited, 0);
  EXPECT_TRUE(one<ReleaseIncarnation>()->kill);
  EXPECT_EQ(job().state, JobState::Exited);
}

// ------------------------------------------------------------------ recovery

class Recovery : public ClusterTest {
 protected:
  void SetUp() override {
    up("node-1");
    up("node-2");
    up("node-3");
    run("node-1", 3);
  }
  void lose_node() {
    pass(kTerm + 600, {"node-2", "node-3"});
    ASSERT_EQ(job().state, JobState::Recovering);
  }
};

TEST_F(Recovery, TimesAreCountedFromTheLastSignOfLife) {
  const TimeMs last_sign = now;
  now = last_sign + kTerm - 600;
  beat("node-2");
  now = last_sign + kTerm;
  apply(Tick{});
  now += 80;
  apply(OrderDone{.kind = OrderKind::Restore,
                  .job = JobId(1),
                  .generation = Generation(2),
                  .node = NodeId("node-2"),
                  .fetch_ms = 10,
                  .restore_ms = 60,
                  .running_for_ms = 4});
  ASSERT_EQ(moves.size(), 1u);
  EXPECT_EQ(moves[0].timing.cause, Cause::NodeLost);
  EXPECT_DOUBLE_EQ(moves[0].timing.detect_ms, kTerm);
  EXPECT_DOUBLE_EQ(moves[0].timing.downtime_ms, kTerm + 80 - 4);
  EXPECT_EQ(moves[0].timing.from, NodeId("node-1"));
  EXPECT_EQ(moves[0].timing.to, NodeId("node-2"));
}

TEST_F(Recovery, ADamagedCheckpointIsQuarantinedAndTheOneBeforeIsTried) {
  lose_node();
  EXPECT_EQ(job().attempt->from, CheckpointNumber(3));
  done(OrderKind::Restore, job().attempt->node.value, 2, FailureKind::DamagedCheckpoint);
  EXPECT_EQ(one<QuarantineCheckpoint>()->number, CheckpointNumber(3));
  EXPECT_EQ(job().attempt->from, CheckpointNumber(2));
  EXPECT_EQ(job().attempt->generation, Generation(3));
  EXPECT_EQ(one<RollBackOutput>()->bytes, 200u);
  EXPECT_TRUE(told(event::kRestoreFailed));
  EXPECT_TRUE(told(event::kQuarantined));
}

TEST_F(Recovery, WithAllCheckpointsDamagedItFails) {
  lose_node();
  for (std::uint64_t generation = 2; generation <= 4; ++generation) {
    done(OrderKind::Restore, job().attempt->node.value, generation, FailureKind::DamagedCheckpoint);
  }
  EXPECT_EQ(job().state, JobState::Failed);
  EXPECT_NE(job().reason.find("no checkpoint"), std::string::npos);
  ASSERT_EQ(moves.size(), 1u);
  EXPECT_FALSE(moves[0].timing.ok);
}

TEST_F(Recovery, AnUnfitNodeIsReplacedAndNothingIsQuarantined) {
  lose_node();
  const NodeId first = job().attempt->node;
  done(OrderKind::Restore, first.value, 2, FailureKind::UnfitNode);
  EXPECT_NE(job().attempt->node, first);
  EXPECT_EQ(job().attempt->from, CheckpointNumber(3));
  EXPECT_FALSE(told(event::kQuarantined));
}

TEST_F(Recovery, AttemptsAreBounded) {
  lose_node();
  for (int i = 0; i < 60 && job().state == JobState::Recovering; ++i) {
    if (job().attempt) {
      done(OrderKind::Restore, job().attempt->node.value, job().attempt->generation.value,
           FailureKind::NoSpace);
    }
    pass(2'000, {"node-2", "node-3"});
  }
  EXPECT_EQ(job().state, JobState::Failed);
  EXPECT_EQ(times_told(event::kRestoreFailed), 5);
}

TEST_F(Recovery, AnErrorThatMayBeTheCheckpointsOwnLeadsToTheOneBefore) {
  lose_node();
  done(OrderKind::Restore, job().attempt->node.value, 2, FailureKind::Internal);
  EXPECT_EQ(job().attempt->from, CheckpointNumber(3));
  done(OrderKind::Restore, job().attempt->node.value, 3, FailureKind::Internal);
  pass(5'000, {"node-2", "node-3"});
  EXPECT_EQ(job().attempt->from, CheckpointNumber(2));
  done(OrderKind::Restore, job().attempt->node.value, job().attempt->generation.value);
  EXPECT_TRUE(told(event::kQuarantined, "superseded"));
}

TEST_F(Recovery, WithoutACheckpointOnlyARestartPolicyStartsOver) {
  apply(SubmitJob{2, spec(2, "node-1")});
  done(OrderKind::Start, "node-1", 1, FailureKind::None, 2);
  JobRecord scratch = spec(3, "node-1");
  scratch.restart = RestartPolicy::Scratch;
  apply(SubmitJob{3, scratch});
  done(OrderKind::Start, "node-1", 1, FailureKind::None, 3);
  lose_node();
  EXPECT_EQ(job(2).state, JobState::Failed);
  ASSERT_TRUE(job(3).attempt);
  EXPECT_EQ(job(3).attempt->from, CheckpointNumber(0));
}

TEST_F(Recovery, CanBeSwitchedOff) {
  JobRecord record = spec(2, "node-1");
  record.policy.recover_on_node_lost = false;
  apply(SubmitJob{2, record});
  done(OrderKind::Start, "node-1", 1, FailureKind::None, 2);
  lose_node();
  EXPECT_EQ(job(2).state, JobState::Failed);
  EXPECT_NE(job(2).reason.find("policy"), std::string::npos);
}

TEST_F(Recovery, WaitsForANodeAndTakesTheFirstThatFits) {
  apply(CordonNode{1, NodeId("node-2")});
  apply(CordonNode{1, NodeId("node-3")});
  lose_node();
  EXPECT_FALSE(job().attempt);
  EXPECT_TRUE(told(event::kNoTarget, "node-2 is cordoned; node-3 is cordoned"));
  apply(UncordonNode{1, NodeId("node-3")});
  ASSERT_TRUE(job().attempt);
  EXPECT_EQ(job().attempt->node, NodeId("node-3"));
}

struct Ending {
  ExitCause cause;
  JobState state;
};
class Endings : public Recovery, public ::testing::WithParamInterface<Ending> {};
TEST_P(Endings, DecideWhetherItIsRecovered) {
  pass(15'000, {"node-1", "node-2", "node-3"});
  exited(1, GetParam().cause, 0);
  EXPECT_EQ(job().state, GetParam().state);
}
INSTANTIATE_TEST_SUITE_P(Causes, Endings,
                         ::testing::Values(Ending{ExitCause::Exited, JobState::Exited},
                                           Ending{ExitCause::Fenced, JobState::Recovering},
                                           Ending{ExitCause::Lost, JobState::Recovering},
                                           Ending{ExitCause::Killed, JobState::Recovering}));

TEST_F(Recovery, OutputOfAnAttemptThatCameToNothingIsCutToo) {
  // An attempt to go back to 1 printed, unheard; then both it and the source are gone.
  apply(UserRestore{7, JobId(1), CheckpointNumber(1), NodeId("node-2")});
  frozen("node-1", 1, 4);
  EXPECT_EQ(one<RollBackOutput>()->bytes, 100u);
  restart_controller();
  up("node-2");
  up("node-1");
  done(OrderKind::Kill, "node-1", 1);
  done(OrderKind::Kill, "node-2", 2);
  ASSERT_TRUE(job().attempt);
  EXPECT_EQ(job().attempt->from, CheckpointNumber(4));
  // The log has 100 bytes of the common past and then the attempt's; 4 says 400.
  EXPECT_EQ(one<RollBackOutput>()->bytes, 100u);
}

TEST_F(Recovery, AMoveWaitsForItsSourceToComeBackToARestartedController) {
  restart_controller();
  up("node-2");
  apply(UserMigrate{5, JobId(1), NodeId("node-2")});
  EXPECT_TRUE(one<Reply>()->status);
  EXPECT_TRUE(all<MoveFinished>().empty());
  up("node-1", lists["node-1"]);
  ASSERT_TRUE(one<FreezeIncarnation>());
  frozen("node-1", 1, 4);
  EXPECT_EQ(one<RestoreIncarnation>()->node, NodeId("node-2"));
}

TEST_F(Recovery, AMoveWhoseSourceDoesNotComeBackIsARecovery) {
  restart_controller();
  up("node-2");
  apply(UserMigrate{5, JobId(1), NodeId("node-2")});
  pass(kTerm + 600, {"node-2"});
  ASSERT_TRUE(job().attempt);
  EXPECT_EQ(job().attempt->node, NodeId("node-2"));
}

TEST_F(Recovery, AJobThatKeepsVanishingIsNotRestoredForEver) {
  for (int i = 0; i < 200 && !has_ended(job().state); ++i) {
    if (job().attempt) {
      done(OrderKind::Restore, job().attempt->node.value, job().attempt->generation.value);
    }
    if (job().current) exited(job().current->generation.value, ExitCause::Lost);
    pass(600, {"node-1", "node-2", "node-3"});
  }
  EXPECT_EQ(job().state, JobState::Failed);
}

// ------------------------------------------------------------------ restart

TEST_F(Recovery, RestartsBackOffAndStopAtTheLimit) {
  JobRecord record = spec(2, "node-2");
  record.restart = RestartPolicy::Checkpoint;
  record.restart_limit = 3;
  apply(SubmitJob{2, record});
  done(OrderKind::Start, "node-2", 1, FailureKind::None, 2);
  const TimeMs waits[] = {1'000, 2'000, 4'000};
  for (std::uint64_t n = 1; n <= 3; ++n) {
    apply(IncarnationExited{JobId(2), Generation(n), 3, ExitCause::Exited, ""});
    EXPECT_EQ(job(2).state, JobState::Recovering);
    const TimeMs wait = waits[n - 1];
    pass(wait - 1, {"node-1", "node-2", "node-3"});
    EXPECT_FALSE(job(2).attempt);
    now += 1;
    apply(Tick{});
    ASSERT_TRUE(job(2).attempt);
    done(OrderKind::Start, job(2).attempt->node.value, n + 1, FailureKind::None, 2);
  }
  apply(IncarnationExited{JobId(2), Generation(4), 3, ExitCause::Exited, ""});
  EXPECT_EQ(job(2).state, JobState::Exited);
  EXPECT_EQ(job(2).exit_code, 3);
}

}  // namespace
}  // namespace baton::core
