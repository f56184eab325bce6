// Policies and placement.
#include "core/placement.h"
#include "core/policy.h"
#include "core_fixture.h"

namespace baton::core {
namespace {

TEST(ThresholdWatch, NeedsTheTimeAndResetsOnlyBelowTheClearMark) {
  ThresholdWatch watch;
  auto at = [&](TimeMs now, double value) {
    watch.observe(value, 0.85, 0.70, 3'000, now);
    return watch.fired();
  };
  EXPECT_FALSE(at(0, 0.98));
  EXPECT_FALSE(at(2'000, 0.75));  // between the marks: the clock runs on
  EXPECT_FALSE(at(3'000, 0.80));  // but fires only above the threshold
  EXPECT_TRUE(at(3'500, 0.90));
  EXPECT_EQ(watch.since(), 0);
  EXPECT_EQ(watch.fired_at(), 3'500);
  EXPECT_TRUE(at(4'000, 0.75));
  EXPECT_FALSE(at(5'000, 0.60));
  EXPECT_FALSE(at(6'000, 0.98));
  EXPECT_TRUE(at(9'000, 0.98));
}

TEST(Backoff, DoublesUpToAMinute) {
  EXPECT_EQ(backoff_ms(1), 1'000);
  EXPECT_EQ(backoff_ms(2), 2'000);
  EXPECT_EQ(backoff_ms(6), 32'000);
  EXPECT_EQ(backoff_ms(7), 60'000);
  EXPECT_EQ(backoff_ms(1000), 60'000);
}

TEST(Versions, AreComparedNumberByNumber) {
  EXPECT_EQ(compare_versions("4.2.1", "4.2.1"), 0);
  EXPECT_EQ(compare_versions("4.2", "4.2.0"), 0);
  EXPECT_LT(compare_versions("4.2.1", "4.10"), 0);
  EXPECT_GT(compare_versions("4.2.1", "4.1.1"), 0);
  EXPECT_LT(compare_versions("", "3.0"), 0);
}

class Placing : public ::testing::Test {
 protected:
  Candidate node(const std::string& name, double cpu = 0.1) {
    Candidate candidate;
    candidate.facts = {.id = NodeId(name),
                       .cpus = 2,
                       .memory_bytes = 4ull << 30,
                       .criu_version = "4.2.1",
                       .cpu_features = {"avx", "sse4"},
                       .cgroup_limits = true};
    candidate.sample.cpu_utilization = cpu;
    return candidate;
  }
  std::string why(const Candidate& candidate) {
    const Placement placement = place(request, {candidate});
    return placement.node ? "" : placement.rejected.at(0);
  }
  PlacementRequest request;
};

TEST_F(Placing, PrefersLeastUtilizationThenFewestJobsThenTheName) {
  Candidate a = node("a", 0.30), b = node("b", 0.101), c = node("c", 0.099);
  EXPECT_EQ(place(request, {a, b, c}).node, NodeId("b"));  // b and c: the same to the per cent
  b.job_count = 1;
  EXPECT_EQ(place(request, {a, b, c}).node, NodeId("c"));
}

TEST_F(Placing, SaysWhyThereAndWhatElseWouldDo) {
  Candidate a = node("a", 0.30), b = node("b", 0.10), c = node("c", 0.20), d = node("d", 0.0);
  c.job_count = 1;
  d.cordoned = true;
  request.preferred = NodeId("c");
  EXPECT_TRUE(place(request, {a, b, c, d}).others.empty());
  request.tell_others = true;
  const Placement placement = place(request, {a, b, c, d});
  EXPECT_EQ(placement.node, NodeId("c"));
  EXPECT_EQ(placement.why, "keeps its newest checkpoint ready; CPU 20 %, 1 job");
  EXPECT_EQ(placement.others,
            (std::vector<std::string>{"b (CPU 10 %, 0 jobs)", "a (CPU 30 %, 0 jobs)"}));
  EXPECT_EQ(placement.rejected, (std::vector<std::string>{"d is cordoned"}));
}

TEST_F(Placing, SaysWhyNot) {
  Candidate bad = node("n");
  bad.state = NodeState::Lost;
  EXPECT_EQ(why(bad), "n is lost");
  bad = node("n");
  bad.cordoned = true;
  EXPECT_EQ(why(bad), "n is cordoned");
  bad = node("n");
  bad.draining = true;
  EXPECT_EQ(why(bad), "n is being drained");
  bad = node("n", 0.97);
  EXPECT_EQ(why(bad), "n is overloaded (97 %)");
  bad = node("n");
  bad.sample.about_to_fail = true;
  bad.sample.about_to_fail_cause = "disk errors";
  EXPECT_EQ(why(bad), "n is about to fail (disk errors)");
  request.restoring = true;
  request.criu_version = "4.3";
  EXPECT_EQ(why(node("n")), "n has CRIU 4.2.1, older than the 4.3 that made the checkpoint");
  request.criu_version = "4.2";
  request.cpu_features = {"avx", "avx512f"};
  EXPECT_EQ(why(node("n")), "n lacks CPU features the job may be using: avx512f");
  request.cpu_features = {"avx"};
  EXPECT_EQ(why(node("n")), "");
  request.needs.memory_bytes = 8ull << 30;
  EXPECT_EQ(why(node("n")), "n has 4.0 GiB of memory, the job asks for 8.0 GiB");
  request.needs.memory_bytes = 1 << 30;
  bad = node("n");
  bad.facts.cgroup_limits = false;
  EXPECT_EQ(why(bad), "n can't enforce the job's limits (no cgroups)");
}

TEST_F(Placing, ReliefRefusesANodeThatWouldBeOverloadedInTurn) {
  request.urgency = Urgency::Relief;
  EXPECT_EQ(why(node("n", 0.75)), "n is busy itself (75 %, wanted below 70 %)");
  request.share_cores = 1;
  EXPECT_EQ(why(node("n", 0.30)), "");
  EXPECT_EQ(why(node("n", 0.40)), "n would be overloaded in turn (90 % with the job)");
}

TEST_F(Placing, ARescueTakesAnOverloadedNodeRatherThanNone) {
  request.urgency = Urgency::Rescue;
  EXPECT_EQ(place(request, {node("a", 0.97)}).node, NodeId("a"));
  EXPECT_EQ(place(request, {node("a", 0.97), node("b", 0.80)}).node, NodeId("b"));
}

// ------------------------------------------------------------------ the policy loop

class Policies : public ClusterTest {
 protected:
  void SetUp() override {
    config.policy.cpu_for_ms = 3'000;
    up("node-1");
    up("node-2");
  }
  // Heartbeats each 600 ms: node-1 at `cpu`, node-2 at `other`; stops at the first freeze.
  bool overload(TimeMs ms, double cpu, double other = 0.03) {
    for (const TimeMs end = now + ms; now < end;) {
      now += 600;
      beat("node-2", other);
      beat("node-1", cpu);
      if (one<FreezeIncarnation>()) return true;
    }
    return false;
  }
  void move_over(std::uint64_t id, std::uint64_t generation, std::uint64_t checkpoint) {
    frozen("node-1", generation, checkpoint, id);
    done(OrderKind::Restore, "node-2", generation + 1, FailureKind::None, id);
    done(OrderKind::Release, "node-1", generation, FailureKind::None, id);
    std::erase_if(lists["node-1"], [&](const auto& report) { return report.job == JobId(id); });
    lists["node-2"].push_back({JobId(id), Generation(generation + 1)});
  }
};

TEST_F(Policies, OverloadMovesAJobAndSaysWhy) {
  run("node-1");
  ASSERT_TRUE(overload(6'000, 0.98));
  EXPECT_TRUE(told(event::kOverload, "node-1: CPU 98 % of its quota for 3.0 s (threshold 85 %)"));
  EXPECT_TRUE(
      told(event::kDecide,
           "loop: moving from node-1 to node-2 because node-1 is overloaded; node-2 is at 3 %"));
  move_over(1, 1, 2);
  ASSERT_EQ(moves.size(), 1u);
  EXPECT_EQ(moves[0].timing.cause, Cause::CpuOverload);
  EXPECT_DOUBLE_EQ(moves[0].timing.detect_ms, 3'000);
}

TEST_F(Policies, AShortPeakMovesNothing) {
  run("node-1");
  EXPECT_FALSE(overload(2'400, 0.98));
  EXPECT_FALSE(overload(600, 0.2));
  EXPECT_FALSE(overload(2'400, 0.98));
}

TEST_F(Policies, OneAtATimeAndTheLastComerFirst) {
  run("node-1", 1, 1);
  now += 1;
  run("node-1", 1, 2);
  ASSERT_TRUE(overload(6'000, 0.98));
  EXPECT_EQ(one<FreezeIncarnation>()->job, JobId(2));
  EXPECT_FALSE(overload(3'000, 0.98));  // while the move is under way
  move_over(2, 1, 2);
  EXPECT_FALSE(overload(2'400, 0.98));  // and while the figures settle
  ASSERT_TRUE(overload(3'000, 0.98));
  EXPECT_EQ(one<FreezeIncarnation>()->job, JobId(1));
}

TEST_F(Policies, NoPingPong) {
  run("node-1");
  ASSERT_TRUE(overload(6'000, 0.98));
  move_over(1, 1, 2);
  const TimeMs moved = now;
  while (now < moved + 55'000) {
    now += 600;
    beat("node-1", 0.03);
    beat("node-2", 0.98);
    EXPECT_FALSE(one<FreezeIncarnation>());
  }
  bool back = false;
  while (now < moved + 70'000 && !back) {
    now += 600;
    beat("node-1", 0.03);
    beat("node-2", 0.98);
    back = one<FreezeIncarnation>().has_value();
  }
  EXPECT_TRUE(back);
}

TEST_F(Policies, NoFitTargetIsToldOncePerEpisode) {
  run("node-1");
  EXPECT_FALSE(overload(9'000, 0.98, 0.97));
  EXPECT_EQ(times_told(event::kNoTarget), 1);
  EXPECT_FALSE(overload(600, 0.1, 0.97));
  EXPECT_TRUE(told(event::kOverloadOver));
  EXPECT_FALSE(overload(9'000, 0.98, 0.97));
  EXPECT_EQ(times_told(event::kNoTarget), 2);
}

TEST_F(Policies, AnUnprotectedJobStaysAndThatIsToldOnce) {
  run("node-1");
  apply(CheckpointReported{.job = JobId(1),
                           .generation = Generation(1),
                           .failure = FailureKind::Refused,
                           .error = "uses io_uring"});
  EXPECT_FALSE(overload(9'000, 0.98));
  EXPECT_EQ(times_told(event::kNoTarget), 1);
  EXPECT_TRUE(told(event::kNoTarget, "io_uring"));
}

TEST_F(Policies, AJobsOwnPolicyCounts) {
  JobRecord record = spec(1, "node-1");
  record.policy.cpu_threshold = 0.5;
  record.policy.cpu_clear = 0.4;
  apply(SubmitJob{1, record});
  done(OrderKind::Start, "node-1", 1);
  lists["node-1"] = {{JobId(1), Generation(1)}};
  EXPECT_TRUE(overload(6'000, 0.6));
  EXPECT_TRUE(told(event::kOverload, "threshold 50 %"));
}

TEST_F(Policies, MigrationOnOverloadCanBeSwitchedOff) {
  JobRecord record = spec(1, "node-1");
  record.policy.migrate_on_overload = false;
  apply(SubmitJob{1, record});
  done(OrderKind::Start, "node-1", 1);
  lists["node-1"] = {{JobId(1), Generation(1)}};
  EXPECT_FALSE(overload(9'000, 0.98));
}

TEST_F(Policies, AFailedMoveIsNotRepeatedAtOnce) {
  run("node-1");
  ASSERT_TRUE(overload(6'000, 0.98));
  done(OrderKind::Freeze, "node-1", 1, FailureKind::Internal);
  EXPECT_FALSE(overload(4'000, 0.98));
  EXPECT_TRUE(overload(4'000, 0.98));
}

TEST_F(Policies, MemoryPressureMovesToo) {
  config.policy.memory_for_ms = 3'000;
  run("node-1");
  bool moved = false;
  for (int i = 0; i < 20 && !moved; ++i) {
    now += 600;
    beat("node-2");
    beat("node-1", 0.1, 0.99);
    moved = one<FreezeIncarnation>().has_value();
  }
  EXPECT_TRUE(moved);
  EXPECT_TRUE(told(event::kOverload, "memory 99 %"));
}

TEST_F(Policies, DrainMovesTwoAtATimeUntilNothingIsLeft) {
  for (std::uint64_t id = 1; id <= 3; ++id) run("node-1", 1, id);
  apply(DrainNode{1, NodeId("node-1")});
  EXPECT_EQ(all<FreezeIncarnation>().size(), 2u);
  move_over(1, 1, 2);
  beat("node-1");
  EXPECT_EQ(one<FreezeIncarnation>()->job, JobId(3));
  move_over(2, 1, 2);
  move_over(3, 1, 2);
  beat("node-1");
  EXPECT_TRUE(told(event::kNodeDrained));
  EXPECT_TRUE(cluster().find_node(NodeId("node-1"))->draining);
  apply(DrainNode{1, NodeId("node-1"), true});
  EXPECT_FALSE(cluster().find_node(NodeId("node-1"))->draining);
}

TEST_F(Policies, ANodeAboutToFailIsEvacuated) {
  for (std::uint64_t id = 1; id <= 3; ++id) run("node-1", 1, id);
  Heartbeat heartbeat{.node = NodeId("node-1"), .epoch = "a", .incarnations = lists["node-1"]};
  heartbeat.sample.about_to_fail = true;
  heartbeat.sample.about_to_fail_cause = "disk errors";
  apply(heartbeat);
  EXPECT_EQ(all<FreezeIncarnation>().size(), 3u);
  EXPECT_TRUE(told(event::kAboutToFail, "disk errors"));
  EXPECT_TRUE(told(event::kDecide, "because node-1 is about to fail (disk errors)"));
}

}  // namespace
}  // namespace baton::core
