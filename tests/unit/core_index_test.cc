// What the core keeps so that an input costs what it concerns (bench/controller measures that).
#include <limits>

#include "core_fixture.h"

namespace baton::core {
namespace {

class LargeCluster : public ClusterTest {
 protected:
  static std::string node(int number) { return fmt::format("node-{}", number); }

  void grow(int nodes, int jobs_per_node) {
    for (int n = nodes_ + 1; n <= nodes; ++n) up(node(n));
    for (int n = nodes_ + 1; n <= nodes; ++n)
      for (int j = 0; j < jobs_per_node; ++j) run(node(n), 0, ++jobs_);
    nodes_ = nodes;
  }
  void run(const std::string& node, int checkpoints, std::uint64_t id) {
    apply(SubmitJob{1, spec(id, node)});
    done(OrderKind::Start, node, 1, FailureKind::None, id);
    lists[node].push_back({JobId(id), Generation(1)});
    for (int n = 1; n <= checkpoints; ++n) commit(static_cast<std::uint64_t>(n), 1, id);
  }
  std::uint32_t count_on(const std::string& name) {
    for (const NodeView& view : cluster().nodes(now))
      if (view.record.facts.id == NodeId(name)) return view.job_count;
    return std::numeric_limits<std::uint32_t>::max();
  }
  int nodes_ = 0;
  std::uint64_t jobs_ = 0;
};

TEST_F(LargeCluster, JobsThatWaitStartWithinAHeartbeatsTimeOnceANodeIsFit) {
  up("node-1");
  beat("node-1", 0.97);
  constexpr std::uint64_t count = 100;
  for (std::uint64_t id = 1; id <= count; ++id) apply(SubmitJob{1, spec(id)});
  EXPECT_TRUE(told(event::kJobPending, "overloaded"));
  now += 600;
  beat("node-1", 0.1);
  EXPECT_EQ(all<StartIncarnation>().size(), count);
}

TEST_F(LargeCluster, JobsAreCountedWhereTheyLive) {
  up("node-1");
  up("node-2");
  run("node-1", 1, 1);
  run("node-1", 1, 2);
  EXPECT_EQ(count_on("node-1"), 2u);
  apply(UserMigrate{.request = 2, .job = JobId(1), .to = NodeId("node-2")});
  frozen("node-1", 1, 2);
  EXPECT_EQ(count_on("node-1"), 2u);
  EXPECT_EQ(count_on("node-2"), 1u) << "an attempt counts as well";
  done(OrderKind::Restore, "node-2", 2);
  EXPECT_EQ(count_on("node-1"), 1u);
  EXPECT_EQ(count_on("node-2"), 1u);
  restart_controller();
  EXPECT_EQ(count_on("node-1"), 1u);
  EXPECT_EQ(count_on("node-2"), 1u);
}

TEST_F(LargeCluster, DeadlinesAreThoseOfTheNearest) {
  up("node-1");
  EXPECT_EQ(cluster().next_deadline(), now + kTerm);
  run("node-1", 1, 1);
  apply(UserStop{.request = 2, .job = JobId(1), .grace_ms = 700});
  EXPECT_EQ(cluster().next_deadline(), now + 700);
  now += 700;
  apply(Tick{});
  EXPECT_TRUE(one<KillIncarnation>());
  EXPECT_EQ(cluster().next_deadline(), now - 700 + kTerm);
  beat("node-1");
  EXPECT_EQ(cluster().next_deadline(), now + kTerm);
  now += kTerm;
  apply(Tick{});
  EXPECT_TRUE(told(event::kNodeLost));
  EXPECT_GT(cluster().next_deadline(), now);
}

TEST_F(LargeCluster, JobsAreFoundByNameAndInPages) {
  grow(2, 3);
  EXPECT_EQ(cluster().find_job(std::string_view("loop-5"))->id, JobId(5));
  EXPECT_EQ(cluster().find_job(std::string_view("loop-9")), nullptr);
  EXPECT_EQ(cluster().next_job(JobId(0))->id, JobId(1));
  EXPECT_EQ(cluster().next_job(JobId(5))->id, JobId(6));
  EXPECT_EQ(cluster().next_job(JobId(6)), nullptr);
  exited(1, ExitCause::Exited);
  apply(RemoveJob{.request = 3, .job = JobId(1)});
  EXPECT_EQ(cluster().find_job(std::string_view("loop")), nullptr);
  EXPECT_EQ(cluster().next_job(JobId(0))->id, JobId(2));
}

}  // namespace
}  // namespace baton::core
