// What users ask for, at good and at bad moments.
#include "core_fixture.h"

namespace baton::core {
namespace {

class User : public ClusterTest {
 protected:
  void SetUp() override {
    up("node-1");
    up("node-2");
  }
};

TEST_F(User, SubmitValidatesTheNode) {
  apply(SubmitJob{1, spec(1, "nowhere")});
  EXPECT_EQ(reply_error().code(), ErrorCode::InvalidArgument);
  apply(CordonNode{1, NodeId("node-1")});
  apply(SubmitJob{1, spec(1, "node-1")});
  EXPECT_EQ(reply_error().code(), ErrorCode::FailedPrecondition);
  EXPECT_EQ(reply_error().message(), "no node can take it: node-1 is cordoned");
  apply(UncordonNode{1, NodeId("node-1")});
  apply(DrainNode{1, NodeId("node-1")});
  apply(SubmitJob{1, spec(1, "node-1")});
  EXPECT_EQ(reply_error().code(), ErrorCode::FailedPrecondition);
  pass(kTerm, {"node-2"});
  apply(SubmitJob{1, spec(1, "node-1")});
  EXPECT_EQ(reply_error().code(), ErrorCode::FailedPrecondition);
  EXPECT_TRUE(cluster().jobs().empty());
  apply(SubmitJob{1, spec(1)});
  EXPECT_EQ(one<StartIncarnation>()->node, NodeId("node-2"));
  apply(SubmitJob{1, spec(1)});
  EXPECT_EQ(reply_error().code(), ErrorCode::AlreadyExists);
}

TEST_F(User, AJobWithoutANodeWaitsForOne) {
  apply(CordonNode{1, NodeId("node-1")});
  apply(CordonNode{1, NodeId("node-2")});
  apply(SubmitJob{1, spec()});
  EXPECT_TRUE(one<Reply>()->status);
  EXPECT_EQ(job().state, JobState::Pending);
  EXPECT_EQ(job().reason, "no node can take it: node-1 is cordoned; node-2 is cordoned");
  up("node-3");
  EXPECT_EQ(one<StartIncarnation>()->node, NodeId("node-3"));
}

TEST_F(User, ACommandThatDoesNotExistFailsTheJob) {
  apply(SubmitJob{1, spec()});
  done(OrderKind::Start, "node-1", 1, FailureKind::Invalid);
  EXPECT_EQ(job().state, JobState::Failed);
  EXPECT_EQ(job().reason, "because of the test");
}

struct BadMove {
  const char* to;
  ErrorCode code;
};
class BadMoves : public User, public ::testing::WithParamInterface<BadMove> {};
TEST_P(BadMoves, ChangeNothing) {
  run("node-1");
  apply(CordonNode{1, NodeId("node-2")});
  apply(UserMigrate{5, JobId(1), NodeId(GetParam().to)});
  EXPECT_EQ(reply_error().code(), GetParam().code);
  EXPECT_EQ(job().state, JobState::Running);
  EXPECT_EQ(last.size(), 1u);
}
INSTANTIATE_TEST_SUITE_P(Targets, BadMoves,
                         ::testing::Values(BadMove{"nowhere", ErrorCode::NotFound},
                                           BadMove{"node-1", ErrorCode::InvalidArgument},
                                           BadMove{"node-2", ErrorCode::FailedPrecondition},
                                           BadMove{"", ErrorCode::FailedPrecondition}));

TEST_F(User, UnknownJobsAndNodesAreNotFound) {
  const JobId nobody(99);
  for (const Input& input :
       std::vector<Input>{UserMigrate{1, nobody}, UserRestore{1, nobody}, UserCheckpoint{1, nobody},
                          UserStop{1, nobody}, UserKill{1, nobody}, RemoveJob{1, nobody},
                          DrainNode{1, NodeId("nowhere")}, CordonNode{1, NodeId("nowhere")},
                          UncordonNode{1, NodeId("nowhere")}}) {
    apply(input);
    EXPECT_EQ(reply_error().code(), ErrorCode::NotFound);
  }
}

TEST_F(User, StopTermsThenKills) {
  run("node-1");
  apply(UserStop{1, JobId(1), 2'000});
  ASSERT_TRUE(one<SignalIncarnation>());
  EXPECT_EQ(one<SignalIncarnation>()->signal, 15);
  EXPECT_EQ(job().state, JobState::Stopping);
  now += 1'999;
  for (auto node : {"node-1", "node-2"}) beat(node);
  EXPECT_FALSE(one<KillIncarnation>());
  now += 1;
  apply(Tick{});
  ASSERT_TRUE(one<KillIncarnation>());
  done(OrderKind::Kill, "node-1", 1);
  EXPECT_EQ(job().state, JobState::Stopping);  // the exit report brings code and output
  exited(1, ExitCause::Killed, 137);
  EXPECT_EQ(job().state, JobState::Stopped);
  EXPECT_EQ(job().exit_code, 137);
}

TEST_F(User, StopTakesTheJobsOwnExitCode) {
  run("node-1");
  apply(UserStop{1, JobId(1), 10'000});
  exited(1, ExitCause::Exited, 7);
  EXPECT_EQ(job().state, JobState::Stopped);
  EXPECT_EQ(job().exit_code, 7);
}

TEST_F(User, StopDuringAMigrationLeavesNothingRunning) {
  run("node-1");
  apply(UserMigrate{5, JobId(1), NodeId("node-2")});
  frozen("node-1", 1, 2);
  apply(UserStop{6, JobId(1), 10'000});
  ASSERT_TRUE(one<KillIncarnation>());  // the attempt first
  EXPECT_EQ(one<KillIncarnation>()->generation, Generation(2));
  done(OrderKind::Restore, "node-2", 2);  // it was quicker, but it is doomed
  EXPECT_EQ(job().current->generation, Generation(1));
  done(OrderKind::Kill, "node-2", 2);
  EXPECT_FALSE(one<ReleaseIncarnation>()->kill);
  done(OrderKind::Release, "node-1", 1);
  EXPECT_EQ(one<SignalIncarnation>()->signal, 15);
  exited(1, ExitCause::Exited, 0);
  EXPECT_EQ(job().state, JobState::Stopped);
  EXPECT_EQ(moves.size(), 1u);
}

TEST_F(User, StopDuringARecoveryEndsTheAttempt) {
  run("node-1");
  pass(kTerm, {"node-2"});
  ASSERT_TRUE(job().attempt);
  apply(UserStop{6, JobId(1), 10'000});
  EXPECT_EQ(one<KillIncarnation>()->generation, Generation(2));
  done(OrderKind::Kill, "node-2", 2);
  EXPECT_EQ(job().state, JobState::Stopped);
}

TEST_F(User, StopOnASilentNodeEndsWithItsLease) {
  run("node-1");
  apply(UserStop{1, JobId(1), 100});
  pass(kTerm, {"node-2"});
  EXPECT_EQ(job().state, JobState::Stopped);
  EXPECT_FALSE(job().attempt);
}

TEST_F(User, AJobThatDiesOfTheUsersSignalWasStopped) {
  run("node-1");
  apply(UserKill{1, JobId(1), 1});
  EXPECT_EQ(one<SignalIncarnation>()->signal, 1);
  EXPECT_EQ(job().state, JobState::Running);
  exited(1, ExitCause::Exited, 129);
  EXPECT_EQ(job().state, JobState::Stopped);
}

// Its command alone would leave its children running, and the job with them.
TEST_F(User, AKillEndsEverythingTheJobStarted) {
  run("node-1");
  apply(UserKill{1, JobId(1), 9});
  EXPECT_FALSE(one<SignalIncarnation>());
  ASSERT_TRUE(one<KillIncarnation>());
  done(OrderKind::Kill, "node-1", 1);
  exited(1, ExitCause::Killed, 137);
  EXPECT_EQ(job().state, JobState::Stopped);
  EXPECT_EQ(job().exit_code, 137);
}

TEST_F(User, OtherSignalsDoNotChangeWhatAnExitMeans) {
  run("node-1");
  apply(UserKill{1, JobId(1), 15});
  exited(1, ExitCause::Exited, 0);
  EXPECT_EQ(job().state, JobState::Exited);
}

TEST_F(User, RemoveOnlyWhatHasEndedUnlessForced) {
  run("node-1");
  apply(RemoveJob{1, JobId(1)});
  EXPECT_EQ(reply_error().code(), ErrorCode::FailedPrecondition);
  apply(RemoveJob{1, JobId(1), true});
  EXPECT_TRUE(one<KillIncarnation>());
  EXPECT_FALSE(one<ForgetJob>());
  exited(1, ExitCause::Killed, 137);
  EXPECT_TRUE(one<ForgetJob>());
  EXPECT_FALSE(one<SaveJob>());
  EXPECT_EQ(cluster().find_job(JobId(1)), nullptr);
}

TEST_F(User, RestoreRollsARunningJobBack) {
  run("node-1", 3);
  apply(UserRestore{7, JobId(1), CheckpointNumber(2), NodeId{}});
  ASSERT_TRUE(one<FreezeIncarnation>());  // so that a failure can be undone
  frozen("node-1", 1, 4);
  ASSERT_TRUE(one<RestoreIncarnation>());
  EXPECT_EQ(one<RestoreIncarnation>()->checkpoint, CheckpointNumber(2));
  EXPECT_EQ(one<RestoreIncarnation>()->node, NodeId("node-1"));
  EXPECT_EQ(one<RollBackOutput>()->bytes, 200u);
  done(OrderKind::Restore, "node-1", 2);
  EXPECT_TRUE(one<ReleaseIncarnation>()->kill);
  EXPECT_EQ(all<QuarantineCheckpoint>().size(), 2u);  // 3 and 4 are another past
  // Lost before its next checkpoint: back to 2, not to 4.
  pass(kTerm, {"node-2"});
  EXPECT_EQ(job().attempt->from, CheckpointNumber(2));
}

TEST_F(User, RestoreRevivesAnEndedJob) {
  run("node-1", 2);
  exited(1, ExitCause::Exited, 1);
  EXPECT_EQ(job().state, JobState::Exited);
  apply(UserRestore{7, JobId(1), CheckpointNumber(0), NodeId("node-2")});
  EXPECT_EQ(one<RestoreIncarnation>()->checkpoint, CheckpointNumber(2));
  done(OrderKind::Restore, "node-2", 2);
  EXPECT_EQ(job().state, JobState::Running);
  EXPECT_FALSE(job().exit_code);
  EXPECT_EQ(moves.at(0).requests, std::vector<RequestId>{7});
}

TEST_F(User, RestoreOfANumberThatIsNotThere) {
  run("node-1");
  apply(UserRestore{7, JobId(1), CheckpointNumber(8), NodeId{}});
  EXPECT_EQ(reply_error().code(), ErrorCode::NotFound);
}

TEST_F(User, CheckpointOnDemandAnswersAllWhoAsked) {
  run("node-1");
  apply(UserCheckpoint{3, JobId(1)});
  EXPECT_TRUE(one<TakeCheckpoint>());
  apply(UserCheckpoint{4, JobId(1)});
  EXPECT_FALSE(one<TakeCheckpoint>());
  apply(OrderDone{.kind = OrderKind::Checkpoint,
                  .job = JobId(1),
                  .generation = Generation(1),
                  .node = NodeId("node-1"),
                  .checkpoint = CheckpointNumber(2)});
  EXPECT_EQ(one<CheckpointFinished>()->number, CheckpointNumber(2));
  EXPECT_EQ(one<CheckpointFinished>()->requests, (std::vector<RequestId>{3, 4}));
}

TEST_F(User, ProtectionFollowsWhatIsKnown) {
  run("node-1", 0);
  EXPECT_FALSE(job().is_protected);
  commit(1);
  EXPECT_TRUE(job().is_protected);
  apply(CheckpointReported{.job = JobId(1),
                           .generation = Generation(1),
                           .failure = FailureKind::Refused,
                           .error = "uses io_uring"});
  EXPECT_FALSE(job().is_protected);
  EXPECT_EQ(job().unprotected_cause, "uses io_uring");
  commit(2);
  EXPECT_TRUE(job().is_protected);
  apply(CheckpointReported{.job = JobId(1),
                           .generation = Generation(1),
                           .failure = FailureKind::DamagedCheckpoint,
                           .error = "does not restore",
                           .preflight = true,
                           .checkpoint = CheckpointNumber(2)});
  commit(3);  // more of the same proves nothing
  EXPECT_FALSE(job().is_protected);
  apply(CheckpointReported{.job = JobId(1),
                           .generation = Generation(1),
                           .preflight = true,
                           .checkpoint = CheckpointNumber(3)});
  EXPECT_TRUE(job().is_protected);
  EXPECT_TRUE(job().checkpoints.back().preflighted);
}

TEST_F(User, AFullDiskIsToldOnceAndLeavesTheJobProtected) {
  run("node-1");
  const CheckpointReported report{.job = JobId(1),
                                  .generation = Generation(1),
                                  .failure = FailureKind::NoSpace,
                                  .error = "disk full"};
  apply(report);
  apply(report);
  EXPECT_EQ(times_told(event::kCheckpointFailed), 1);
  EXPECT_TRUE(job().is_protected);
  EXPECT_EQ(job().last_error, "disk full");
}

}  // namespace
}  // namespace baton::core
