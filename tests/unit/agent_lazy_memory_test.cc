// Restores whose memory comes when it is touched, in real sandboxes.
#include <gmock/gmock.h>
#include <sys/eventfd.h>

#include <csignal>
#include <cstdlib>
#include <fstream>

#include "agent_engine_fixture.h"
#include "sys/userfaultfd.h"

namespace baton::agent {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::StartsWith;

const int faults_enabled = ::setenv("BATON_FAULTS", "", 0);
const RestoreOptions lazily{.memory = RestoreMemory::Lazy};

class LazyMemoryTest : public EngineTest {
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
  static void arm(const std::string& faults) { ::setenv("BATON_FAULTS", faults.c_str(), 1); }
  // Nothing comes in the background for a while.
  static void hold_background() { arm("restore.lazy.copy=delay:1500"); }

  // The checkpoint of a program that has been killed since.
  fs::path checkpoint_of(std::vector<std::string> argv) {
    argv[0] = program_directory() / argv[0];
    Sandbox* sandbox = start_command(argv);
    if (!sandbox) return {};
    await_lines(*sandbox, 1);
    fs::path checkpoint = next_checkpoint();
    auto info = engine_->checkpoint(*sandbox, checkpoint);
    EXPECT_TRUE(info) << info.error().message();
    EXPECT_THAT(info ? info->memory : "", StartsWith("tracked"));
    EXPECT_TRUE(sandbox->kill());
    return checkpoint;
  }
  fs::path checkpoint_of_memwork(std::vector<std::string> more = {}) {
    std::vector<std::string> argv = {
        "memwork",          "--mb",     "48", "--threads", "2", "--pages-per-ms", "20", "--scratch",
        "/var/tmp/scratch", "--result", "-",  "--ready",   "-"};
    argv.insert(argv.end(), more.begin(), more.end());
    return checkpoint_of(argv);
  }
  static fs::path largest_file(const fs::path& folder) {
    fs::path largest;
    for (const auto& file : fs::directory_iterator(folder))
      if (largest.empty() || file.file_size() > fs::file_size(largest)) largest = file.path();
    return largest;
  }
  static void expect_good(Sandbox& sandbox) {
    ASSERT_TRUE(sandbox.signal(SIGUSR1));
    SandboxExit end = await_end(sandbox);
    EXPECT_EQ(end.kind, SandboxExit::Kind::Exited);
    EXPECT_EQ(end.code, 0);
    EXPECT_THAT(output(sandbox), HasSubstr("OK"));
  }
};

TEST_F(LazyMemoryTest, EveryPageComesWhenItIsTouched) {
  const fs::path checkpoint = checkpoint_of_memwork();
  hold_background();
  auto restored = restore(checkpoint, lazily);
  ASSERT_TRUE(restored) << restored.error().message() << "\n" << log_tail_;
  expect_good(**restored);
}

TEST_F(LazyMemoryTest, EveryPageComesByItself) {
  const fs::path checkpoint = checkpoint_of_memwork();
  auto restored = restore(checkpoint, lazily);
  ASSERT_TRUE(restored) << restored.error().message() << "\n" << log_tail_;
  ASSERT_TRUE(engine_->finish_restore(**restored));
  expect_good(**restored);
}

// Without writing them anywhere: what a disk has to take, others wait for.
TEST_F(LazyMemoryTest, APreflightReadsEveryPage) {
  const fs::path checkpoint = checkpoint_of_memwork();
  const RestoreOptions preflight{.memory = RestoreMemory::Lazy, .leave_stopped_then_kill = true};
  auto proven = restore(checkpoint, preflight);
  ASSERT_TRUE(proven) << proven.error().message() << "\n" << log_tail_;
  EXPECT_EQ(await_end(**proven).kind, SandboxExit::Kind::Killed);
  std::uint64_t written = 0;
  for (const auto& file : fs::directory_iterator((*proven)->images_directory()))
    if (file.is_regular_file()) written += file.file_size();
  EXPECT_LT(written, 4u << 20);

  const fs::path pack = largest_file(checkpoint / "packs");
  const auto size = static_cast<std::streamoff>(fs::file_size(pack));
  std::fstream(pack, std::ios::in | std::ios::out | std::ios::binary).seekp(size / 2).put('!');
  proven = restore(checkpoint, preflight);
  ASSERT_FALSE(proven);
  EXPECT_EQ(proven.error().code(), ErrorCode::Damaged) << proven.error().message();
}

TEST_F(LazyMemoryTest, APreflightThatIsGivenUpEndsBeforeCriuBegins) {
  const fs::path checkpoint = checkpoint_of_memwork();
  std::stop_source given_up;
  given_up.request_stop();
  auto proven = restore(checkpoint, {.memory = RestoreMemory::Lazy,
                                     .leave_stopped_then_kill = true,
                                     .given_up = given_up.get_token()});
  ASSERT_FALSE(proven);
  EXPECT_EQ(proven.error().code(), ErrorCode::Cancelled) << proven.error().message();
}

TEST_F(LazyMemoryTest, ALayoutThatChangesBeforeThePagesCome) {
  const fs::path checkpoint = checkpoint_of({"layoutwork"});
  hold_background();
  auto restored = restore(checkpoint, lazily);
  ASSERT_TRUE(restored) << restored.error().message() << "\n" << log_tail_;
  expect_good(**restored);
}

TEST_F(LazyMemoryTest, ALayoutThatChangesWhileThePagesCome) {
  const fs::path checkpoint = checkpoint_of({"layoutwork"});
  for (int i = 0; i < 5; ++i) {
    auto restored = restore(checkpoint, lazily);
    ASSERT_TRUE(restored) << restored.error().message() << "\n" << log_tail_;
    expect_good(**restored);
  }
}

TEST_F(LazyMemoryTest, SeveralProcessesAndAProgramThatForksAndMapsAllTheTime) {
  const fs::path several = checkpoint_of_memwork({"--processes", "3", "--mb", "16"});
  auto restored = restore(several, lazily);
  ASSERT_TRUE(restored) << restored.error().message() << "\n" << log_tail_;
  expect_good(**restored);
  const fs::path restless = checkpoint_of_memwork({"--churn", "2"});
  restored = restore(restless, lazily);
  ASSERT_TRUE(restored) << restored.error().message() << "\n" << log_tail_;
  expect_good(**restored);
}

TEST_F(LazyMemoryTest, ACheckpointWaitsForAllPagesAndIsWhole) {
  fs::path checkpoint = checkpoint_of_memwork({"--churn", "1"});
  for (int i = 0; i < 3; ++i) {
    auto restored = restore(checkpoint, lazily);
    ASSERT_TRUE(restored) << restored.error().message() << "\n" << log_tail_;
    checkpoint = next_checkpoint();
    auto info = engine_->checkpoint(**restored, checkpoint);
    ASSERT_TRUE(info) << info.error().message();
    EXPECT_THAT(info->memory, StartsWith("tracked"));
    ASSERT_TRUE((*restored)->kill());
  }
  auto restored = restore(checkpoint, {.memory = RestoreMemory::Eager});
  ASSERT_TRUE(restored) << restored.error().message() << "\n" << log_tail_;
  expect_good(**restored);
}

// Damages a part of each pack.
void damage_packs(const fs::path& checkpoint, double from, double to) {
  for (const auto& pack : fs::directory_iterator(checkpoint / "packs")) {
    const auto size = static_cast<double>(fs::file_size(pack.path()));
    std::fstream file(pack.path(), std::ios::in | std::ios::out | std::ios::binary);
    for (double at = size * from; at < size * to; at += 16384) {
      file.seekp(static_cast<std::streamoff>(at));
      file << "damage";
    }
  }
}

// It may be needed before the program runs, while CRIU still works, or long after.
TEST_F(LazyMemoryTest, APageThatCantBeReadEndsTheJob) {
  const fs::path checkpoint = checkpoint_of_memwork();
  for (auto [from, to] : {std::pair(0.40, 0.45), std::pair(0.02, 0.80)}) {
    damage_packs(checkpoint, from, to);
    auto restored = restore(checkpoint, lazily);
    const Status outcome =
        restored ? engine_->finish_restore(**restored) : Status(fail(restored.error()));
    ASSERT_FALSE(outcome);
    EXPECT_EQ(outcome.error().code(), ErrorCode::Damaged) << outcome.error().message();
    if (!restored) continue;
    EXPECT_EQ(await_end(**restored).kind, SandboxExit::Kind::Killed);
    EXPECT_THAT(output(**restored), Not(HasSubstr("FAIL")));
  }
}

TEST_F(LazyMemoryTest, TheJobDoesNotOutliveWhoBringsItsPages) {
  const fs::path checkpoint = checkpoint_of_memwork();
  hold_background();
  auto restored = restore(checkpoint, lazily);
  ASSERT_TRUE(restored) << restored.error().message() << "\n" << log_tail_;
  ASSERT_TRUE((*restored)->signal(SIGUSR1));  // it looks at all of its memory meanwhile
  engine_.reset();
  const SandboxExit end = await_end(**restored);
  EXPECT_EQ(end.kind, SandboxExit::Kind::Fenced);
  EXPECT_THAT(output(**restored), Not(HasSubstr("FAIL")));
}

TEST_F(LazyMemoryTest, AGuardThatIsReleasedLeavesTheJobAlone) {
  Sandbox* sandbox = start_workload("counter");
  ASSERT_NE(sandbox, nullptr);
  Fd kept(::eventfd(0, EFD_CLOEXEC));
  auto guard = sandbox->guard();
  ASSERT_TRUE(guard) << guard.error().message();
  ASSERT_TRUE((*guard)->keep(kept.get()));
  ASSERT_TRUE((*guard)->release());
  EXPECT_FALSE((*guard)->keep(kept.get())) << "nothing is kept that nobody would let go";
  guard->reset();
  await_lines(*sandbox, 2, output(*sandbox).size());
  guard = sandbox->guard();
  ASSERT_TRUE(guard);
  guard->reset();
  EXPECT_EQ(await_end(*sandbox).kind, SandboxExit::Kind::Fenced);
}

}  // namespace
}  // namespace baton::agent
