// The engine with tracked memory, in real sandboxes.
#include <gmock/gmock.h>

#include <csignal>
#include <cstdlib>

#include "agent_engine_fixture.h"
#include "sys/userfaultfd.h"

namespace baton::agent {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::StartsWith;

// Whether there are fault points is decided at the first one that is passed.
const int faults_enabled = ::setenv("BATON_FAULTS", "", 0);

class TrackedEngine : public EngineTest {
 protected:
  void SetUp() override {
    EngineTest::SetUp();
    if (IsSkipped()) return;
    ASSERT_EQ(faults_enabled, 0);
    auto ability = sys::probe_tracking();
    if (!ability.available) GTEST_SKIP() << "no page tracking here: " << ability.reason;
  }
  void TearDown() override {
    arm("");
    EngineTest::TearDown();
  }

  // One that checks all of its memory when it is asked to end, and says so in its output.
  Sandbox* start_memwork() {
    Sandbox* sandbox = start_command({program_directory() / "memwork", "--mb", "64", "--threads",
                                      "2", "--pages-per-ms", "20", "--churn", "1", "--scratch",
                                      "/var/tmp/scratch", "--result", "-", "--ready", "-"});
    if (sandbox) await_lines(*sandbox, 1);
    return sandbox;
  }
  static void expect_memory_holds(Sandbox& sandbox) {
    ASSERT_TRUE(sandbox.signal(SIGUSR1));
    SandboxExit end = await_end(sandbox);
    EXPECT_EQ(end.kind, SandboxExit::Kind::Exited);
    EXPECT_EQ(end.code, 0);
    EXPECT_THAT(output(sandbox), HasSubstr("OK "));
  }
  static void arm(const std::string& faults) { ::setenv("BATON_FAULTS", faults.c_str(), 1); }
};

TEST_F(TrackedEngine, MemoryHoldsAfterTwoMoves) {
  Sandbox* sandbox = start_memwork();
  ASSERT_NE(sandbox, nullptr);
  for (int move = 0; move < 2; ++move) {
    fs::path checkpoint;
    for (int i = 0; i < 3; ++i) {
      checkpoint = next_checkpoint();
      auto info = engine_->checkpoint(*sandbox, checkpoint);
      ASSERT_TRUE(info) << info.error().message();
      EXPECT_THAT(info->memory, StartsWith("tracked"));
    }
    ASSERT_TRUE(sandbox->kill());
    auto restored = restore(checkpoint);
    ASSERT_TRUE(restored) << restored.error().message() << "\n" << log_tail_;
    sandbox = *restored;
  }
  expect_memory_holds(*sandbox);
}

// The map of a held job's pages is made before the freeze, and what has changed since is added to
// it in the freeze: by then mappings have come, gone and moved.
TEST_F(TrackedEngine, AHeldCheckpointHasWhatChangedSinceItWasPrepared) {
  Sandbox* sandbox = start_memwork();
  ASSERT_NE(sandbox, nullptr);
  for (int move = 0; move < 4; ++move) {
    ASSERT_TRUE(engine_->checkpoint(*sandbox, next_checkpoint()));
    arm(move % 2 ? "dump.before_freeze=delay:200" : "");
    const auto checkpoint = next_checkpoint();
    Sandbox* target = nullptr;
    auto info = engine_->checkpoint_and_hold(*sandbox, checkpoint, [&](const HeldCheckpoint& held) {
      if (!held.confirm()) return HoldVerdict::Resume;  // another one is taken
      auto restored = restore(checkpoint);
      EXPECT_TRUE(restored) << restored.error().message() << log_tail_;
      if (restored) target = *restored;
      return HoldVerdict::Kill;
    });
    ASSERT_TRUE(info) << info.error().message();
    ASSERT_NE(target, nullptr);
    EXPECT_THAT(info->memory, StartsWith("tracked"));
    sandbox = target;
  }
  expect_memory_holds(*sandbox);
}

TEST_F(TrackedEngine, AHeldJobIsSaidToStandStillForAsLongAsItDoes) {
  Sandbox* sandbox = start_memwork();
  ASSERT_NE(sandbox, nullptr);
  arm("track.assemble=delay:200");
  std::int64_t frozen_us = 0;
  auto info = engine_->checkpoint_and_hold(*sandbox, next_checkpoint(), [&](const auto& held) {
    frozen_us = held.info.frozen_us;
    return HoldVerdict::Resume;
  });
  ASSERT_TRUE(info) << info.error().message();
  EXPECT_GE(frozen_us, 200'000);
  arm("");
  expect_memory_holds(*sandbox);
}

// The second checkpoint, and the first one after a restore, bring what was written meanwhile.
TEST_F(TrackedEngine, ACheckpointStoresWhatWasWritten) {
  Sandbox* sandbox = start_command({program_directory() / "memwork", "--mb", "64", "--threads", "1",
                                    "--pages-per-ms", "0.1", "--result", "-", "--ready", "-"});
  ASSERT_NE(sandbox, nullptr);
  await_lines(*sandbox, 1);
  auto take = [&](Sandbox& of) {
    auto info = engine_->checkpoint(of, next_checkpoint());
    EXPECT_TRUE(info) << info.error().message();
    return info ? info->new_memory_bytes : 0;
  };
  const std::uint64_t first = take(*sandbox);
  EXPECT_GT(first, 1u << 20);
  EXPECT_LT(take(*sandbox), first / 10);
  auto checkpoint = next_checkpoint();
  ASSERT_TRUE(engine_->checkpoint(*sandbox, checkpoint));
  ASSERT_TRUE(sandbox->kill());
  auto restored = restore(checkpoint);
  ASSERT_TRUE(restored) << restored.error().message() << "\n" << log_tail_;
  EXPECT_LT(take(**restored), first / 10);
  engine_->copy_anew(**restored);
  EXPECT_GT(take(**restored), first / 2);
  EXPECT_LT(take(**restored), first / 10);
  expect_memory_holds(**restored);
}

TEST_F(TrackedEngine, FailureInTheFreezeFallsBackToAFullDump) {
  Sandbox* sandbox = start_memwork();
  ASSERT_NE(sandbox, nullptr);
  arm("track.frozen=error");
  auto checkpoint = next_checkpoint();
  auto info = engine_->checkpoint(*sandbox, checkpoint);
  ASSERT_TRUE(info) << info.error().message();
  EXPECT_THAT(info->memory, StartsWith("full"));
  auto next = next_checkpoint();
  info = engine_->checkpoint(*sandbox, next);
  ASSERT_TRUE(info) << info.error().message();
  EXPECT_THAT(info->memory, StartsWith("tracked"));
  ASSERT_TRUE(sandbox->kill());
  for (const auto& taken : {checkpoint, next}) {
    auto restored = restore(taken);
    ASSERT_TRUE(restored) << restored.error().message() << "\n" << log_tail_;
    expect_memory_holds(**restored);
  }
}

// Neither before the freeze, nor in it, nor after it does a failure harm the job or its tracking.
TEST_F(TrackedEngine, FailedCheckpointLeavesTheJobRunningAndTracked) {
  Sandbox* sandbox = start_memwork();
  ASSERT_NE(sandbox, nullptr);
  ASSERT_TRUE(engine_->checkpoint(*sandbox, next_checkpoint()));
  for (const char* point :
       {"dump.frozen=errors", "track.assemble=errors", "dump.before_freeze=errors"}) {
    arm(point);
    auto failed = next_checkpoint();
    EXPECT_FALSE(engine_->checkpoint(*sandbox, failed)) << point;
    EXPECT_FALSE(fs::exists(failed)) << point;
  }
  arm("");
  auto checkpoint = next_checkpoint();
  auto info = engine_->checkpoint(*sandbox, checkpoint);
  ASSERT_TRUE(info) << info.error().message();
  EXPECT_THAT(info->memory, StartsWith("tracked"));
  ASSERT_TRUE(sandbox->kill());
  auto restored = restore(checkpoint);
  ASSERT_TRUE(restored) << restored.error().message() << "\n" << log_tail_;
  expect_memory_holds(**restored);
}

}  // namespace
}  // namespace baton::agent
