// What `baton up` claims, leaves and finds; whole clusters are the system tests' affair.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

#include "sys/file.h"
#include "up/claims.h"
#include "up/respawn.h"
#include "up/tool.h"

namespace baton::up {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

TEST(Tool, TellsWhatAProgramSaid) {
  EXPECT_TRUE(run_tool({"true"}));
  const auto failed = run_tool({"sh", "-c", "echo out; echo the reason >&2; exit 3"});
  ASSERT_FALSE(failed);
  EXPECT_THAT(failed.error().message(), HasSubstr("the reason"));
  EXPECT_THAT(failed.error().message(), HasSubstr("exit code 3"));
  const auto missing = run_tool({"no-such-program-anywhere"});
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code(), ErrorCode::NotFound);
}

TEST(Data, TemporaryDirectoryGoesWithItsOwner) {
  fs::path path;
  {
    auto data = DataDirectory::claim({});
    ASSERT_TRUE(data) << data.error().message();
    path = data->path();
    std::ofstream(path / "file") << "x";
    remove_orphans();
    EXPECT_TRUE(fs::exists(path / "file")) << "a living cluster's directory was removed";
  }
  EXPECT_FALSE(fs::exists(path));
}

TEST(Data, IsHeldByOneAtATime) {
  const fs::path path = fs::temp_directory_path() / fmt::format("baton-unit-up-{}", ::getpid());
  {
    auto first = DataDirectory::claim(path);
    ASSERT_TRUE(first) << first.error().message();
    const auto second = DataDirectory::claim(path);
    ASSERT_FALSE(second);
    EXPECT_EQ(second.error().code(), ErrorCode::FailedPrecondition);
  }
  EXPECT_TRUE(fs::exists(path)) << "a directory that the user named was removed";
  EXPECT_TRUE(DataDirectory::claim(path));
  fs::remove_all(path);
}

TEST(Data, WhatAKilledClusterLeftIsRemoved) {
  const fs::path path = "/var/tmp/baton-up-unit" + std::to_string(::getpid());
  ASSERT_TRUE(sys::make_directories(path / "controller"));
  std::ofstream(path / "up.lock").flush();
  remove_orphans();
  EXPECT_FALSE(fs::exists(path));
}

TEST(Group, OrphansAreRemovedAndLivingOnesAreNot) {
  auto living = ClusterGroup::create();
  if (!living) GTEST_SKIP() << living.error().message();
  const fs::path orphan = fmt::format("baton-up-unit{}", ::getpid());
  ASSERT_TRUE(sys::Cgroup::create(orphan));
  remove_orphans();
  EXPECT_FALSE(sys::Cgroup::open(orphan));
  EXPECT_TRUE(sys::Cgroup::open(living->path()));
}

TEST(Group, GoesWithItsOwner) {
  fs::path path;
  {
    auto group = ClusterGroup::create();
    if (!group) GTEST_SKIP() << group.error().message();
    path = group->path();
    ASSERT_TRUE(sys::Cgroup::create(path / "node-1" / "agent"));
  }
  EXPECT_FALSE(sys::Cgroup::open(path));
}

TEST(Restarts, PauseGrowsForWhatDiesYoung) {
  Respawn respawn;
  EXPECT_TRUE(respawn.due());
  respawn.started();
  respawn.ended();
  EXPECT_FALSE(respawn.due());
  const int first = respawn.wait_ms();
  respawn.started();
  respawn.ended();
  EXPECT_GT(respawn.wait_ms(), first);
  respawn.never();
  EXPECT_FALSE(respawn.due());
  EXPECT_EQ(respawn.wait_ms(), -1);
}

}  // namespace
}  // namespace baton::up
