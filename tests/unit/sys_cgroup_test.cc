#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <optional>

#include "sys/cgroup.h"
#include "sys/process.h"

namespace baton::sys {
namespace {

class CgroupTest : public testing::Test {
 protected:
  void SetUp() override {
    path_ = "/baton-unit-" + std::to_string(::getpid()) + "/inner";
    auto made = Cgroup::create(path_);
    if (!made) GTEST_SKIP() << made.error().message();
    group_ = std::move(*made);
  }

  void TearDown() override {
    if (!group_) return;
    EXPECT_TRUE(group_->kill());
    const auto parent = Cgroup::open(path_.parent_path());
    ASSERT_TRUE(parent);
    const Status removed = parent->remove();
    EXPECT_TRUE(removed) << removed.error().message();
    EXPECT_EQ(Cgroup::open(path_.parent_path()).error().code(), ErrorCode::NotFound);
    EXPECT_TRUE(group_->remove()) << "gone already, which is fine";
  }

  Spawned run_inside(const std::string& script) {
    SpawnRequest request;
    request.program = "/bin/sh";
    request.argv = {"sh", "-c", script};
    const auto files = group_->open_procs_files();
    EXPECT_TRUE(files);
    for (const Fd& file : *files) request.cgroup_procs_fds.push_back(file.get());
    auto spawned = spawn(request);
    EXPECT_TRUE(spawned) << spawned.error().message();
    return std::move(*spawned);
  }

  std::filesystem::path path_;
  std::optional<Cgroup> group_;
};

TEST_F(CgroupTest, ExistsOnce) {
  EXPECT_EQ(Cgroup::create(path_).error().code(), ErrorCode::AlreadyExists);
  EXPECT_TRUE(Cgroup::open(path_)) << "a refused creation must not take the first away";
  EXPECT_EQ(group_->path(), path_);
}

TEST_F(CgroupTest, LimitsAreReadBack) {
  const Status cpu = group_->set_cpu_quota(1.5);
  if (!cpu && cpu.error().code() == ErrorCode::Unfit) GTEST_SKIP() << cpu.error().message();
  ASSERT_TRUE(cpu) << cpu.error().message();
  EXPECT_DOUBLE_EQ(group_->cpu_quota().value_or(-1), 1.5);
  ASSERT_TRUE(group_->set_cpu_quota(0));
  EXPECT_DOUBLE_EQ(group_->cpu_quota().value_or(-1), 0);
  const Status memory = group_->set_memory_limit(100 << 20);
  if (!memory && memory.error().code() == ErrorCode::Unfit)
    GTEST_SKIP() << memory.error().message();
  EXPECT_EQ(group_->memory_limit_bytes().value_or(1), 100u << 20);
  ASSERT_TRUE(group_->set_memory_limit(0));
  EXPECT_EQ(group_->memory_limit_bytes().value_or(1), 0u);
}

TEST_F(CgroupTest, AQuotaAboveTheParentsIsNoError) {
  const auto parent = Cgroup::open(path_.parent_path());
  ASSERT_TRUE(parent);
  const Status limited = parent->set_cpu_quota(0.5);
  if (!limited && limited.error().code() == ErrorCode::Unfit)
    GTEST_SKIP() << limited.error().message();
  for (const double cpus : {2.0, 0.5, 0.25}) {
    const Status status = group_->set_cpu_quota(cpus);
    EXPECT_TRUE(status) << cpus << ": " << status.error().message();
  }
  EXPECT_DOUBLE_EQ(group_->cpu_quota().value_or(-1), 0.25);
}

TEST_F(CgroupTest, RealTimePriorityIsToBeHad) {
  const auto parent = Cgroup::open(path_.parent_path());
  ASSERT_TRUE(parent);
  if (std::system("chrt --rr 1 true 2>/dev/null") != 0) GTEST_SKIP() << "not even outside";
  const auto status = [this] {
    const Spawned spawned = run_inside("chrt --rr 1 true");
    int result = -1;
    ::waitpid(spawned.pid, &result, 0);
    return result;
  };
  // Where groups have shares at all, they begin with none, and none has more than its parent.
  if (!group_->allow_real_time(0.1)) {
    EXPECT_NE(status(), 0);
  }
  const Status outer = parent->allow_real_time(0.1), inner = group_->allow_real_time(0.1);
  if (!outer) GTEST_SKIP() << outer.error().message();
  ASSERT_TRUE(inner) << inner.error().message();
  EXPECT_EQ(status(), 0);
}

TEST_F(CgroupTest, HoldsWhatIsSpawnedInsideAndItsUsage) {
  const auto before = group_->cpu_usage_ns();
  const Spawned spawned =
      run_inside("i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; sleep 100");
  EXPECT_EQ(group_->processes().at(0), spawned.pid);
  if (before) {
    // The shell's loop ends by itself; sleep is its only child.
    for (int i = 0; i < 2000 && child_processes(spawned.pid).empty(); ++i) ::usleep(5000);
    EXPECT_GT(group_->cpu_usage_ns().value_or(0), *before + 10'000'000);
  }
  EXPECT_TRUE(group_->kill());
  EXPECT_TRUE(spawned.pidfd.wait_ended(std::chrono::milliseconds(0)));
  spawned.pidfd.reap();
}

TEST_F(CgroupTest, KillReachesProcessesThatForkAllTheTime) {
  // Processes come and go, so no list of pids is right for long; one is stopped.
  const Spawned spawned = run_inside(
      "trap '' TERM; for i in 1 2 3 4; do (while :; do (true) ; done) & done;"
      "kill -STOP $!; wait");
  for (int i = 0; i < 1000 && group_->processes().size() < 5; ++i) ::usleep(5000);
  const Status killed = group_->kill();
  EXPECT_TRUE(killed) << killed.error().message();
  EXPECT_TRUE(group_->processes().empty());
  EXPECT_TRUE(spawned.pidfd.wait_ended(std::chrono::milliseconds(0)));
  spawned.pidfd.reap();
}

TEST_F(CgroupTest, IsNotRemovedWhileInUse) {
  const Spawned spawned = run_inside("exec sleep 100");
  EXPECT_EQ(group_->remove().error().code(), ErrorCode::FailedPrecondition);
  EXPECT_EQ(group_->processes(), std::vector<pid_t>{spawned.pid});
  EXPECT_TRUE(group_->kill());
  spawned.pidfd.reap();
}

TEST(CgroupOwn, OpensTheGroupsOfThisProcess) {
  const auto own = Cgroup::own();
  if (!own) GTEST_SKIP() << own.error().message();
  const auto pids = own->processes();
  EXPECT_NE(std::find(pids.begin(), pids.end(), ::getpid()), pids.end());
}

TEST(CgroupOpen, WhatIsNotThereIsNotFound) {
  const auto group = Cgroup::open("/no/such/group");
  ASSERT_FALSE(group);
  EXPECT_EQ(group.error().code(), ErrorCode::NotFound);
}

}  // namespace
}  // namespace baton::sys
