// What the engine learns before the freeze, and what happens when it is not so any more in it.
#include <gmock/gmock.h>
#include <sys/mman.h>

#include <csignal>
#include <cstdlib>
#include <functional>
#include <thread>

#include "agent/engine/mapping_flags.h"
#include "agent_engine_fixture.h"
#include "sys/file.h"
#include "sys/ipc_state.h"
#include "sys/proc_maps.h"
#include "sys/userfaultfd.h"

namespace baton::agent {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::Not;

// With "deny": where the kernel has no iterator over mappings, or does not let us.
class Foreknowledge : public EngineTest, public testing::WithParamInterface<std::string> {
 protected:
  void SetUp() override {
    EngineTest::SetUp();
    if (IsSkipped()) return;
    ::setenv("BATON_FAULTS", always_.c_str(), 1);
    auto ability = sys::probe_tracking();
    if (!ability.available) GTEST_SKIP() << "no page tracking here: " << ability.reason;
    sandbox_ = start_command({program_directory() / "advisor"});
    ASSERT_NE(sandbox_, nullptr);
    await_lines(*sandbox_, 1);
  }
  void TearDown() override {
    ::setenv("BATON_FAULTS", "", 1);
    EngineTest::TearDown();
  }

  // The checkpoint waits between what it learns and the freeze; just then the program gets
  // `signal`. `hold` may be empty.
  Result<CheckpointInfo> checkpoint_with(
      int signal, const fs::path& directory,
      const std::function<HoldVerdict(const HeldCheckpoint&)>& hold = {}) {
    ::setenv("BATON_FAULTS", (always_ + "dump.before_freeze=delay:400").c_str(), 1);
    const auto length = output(*sandbox_).size();
    const fs::path waits = sandbox_->images_directory() / "stopped";
    fs::remove(waits);  // of the checkpoint before
    std::thread program([&] {
      while (!fs::exists(waits)) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      EXPECT_TRUE(sandbox_->signal(signal));
      await_lines(*sandbox_, 1, length);
    });
    auto info = hold ? engine_->checkpoint_and_hold(*sandbox_, directory, hold)
                     : engine_->checkpoint(*sandbox_, directory);
    program.join();
    ::setenv("BATON_FAULTS", always_.c_str(), 1);
    return info;
  }

  std::string flags_of_large_mapping(const Sandbox& sandbox) {
    auto processes = sandbox.processes();
    if (!processes) return "no processes";
    for (auto [inner, pid] : *processes) {
      if (inner != sandbox.command_pid_inner()) continue;
      auto mappings = sys::read_mappings(pid);
      auto flags = sys::read_mapping_flags(pid);
      if (!mappings || !flags || mappings->size() != flags->size()) return "unreadable";
      for (std::size_t i = 0; i < mappings->size(); ++i)
        if ((*mappings)[i].end - (*mappings)[i].start >= 64u << 20) return (*flags)[i].flags + " ";
    }
    return "no such mapping";
  }

  const std::string always_ = GetParam() == "deny" ? "flags.by_iterator=errors," : "";
  Sandbox* sandbox_ = nullptr;
};
INSTANTIATE_TEST_SUITE_P(Iterators, Foreknowledge, testing::Values("allow", "deny"),
                         [](const auto& which) { return which.param; });

TEST_P(Foreknowledge, AdviceGivenJustBeforeTheFreezeIsCarried) {
  auto first = engine_->checkpoint(*sandbox_, next_checkpoint());
  ASSERT_TRUE(first) << first.error().message();
  auto second = next_checkpoint();
  auto info = checkpoint_with(SIGUSR2, second);
  ASSERT_TRUE(info) << info.error().message();
  EXPECT_EQ(info->memory, "tracked");
  // The program is left to the kernel once, and then believed again.
  const fs::path flags =
      sandbox_->images_directory() / fmt::format("flags-{}", sandbox_->command_pid_inner());
  for (bool believed : {false, true}) {
    ASSERT_TRUE(engine_->checkpoint(*sandbox_, next_checkpoint()));
    EXPECT_EQ(fs::exists(flags), believed);
  }
  ASSERT_TRUE(sandbox_->kill());
  auto restored = restore(second);
  ASSERT_TRUE(restored) << restored.error().message() << "\n" << log_tail_;
  EXPECT_THAT(flags_of_large_mapping(**restored), HasSubstr("dc "));
}

// A checkpoint for which the job is held is checked before anyone may restore it.
TEST_P(Foreknowledge, HeldCheckpointIsNeverOneThatWasMistaken) {
  const fs::path flags =
      sandbox_->images_directory() / fmt::format("flags-{}", sandbox_->command_pid_inner());
  auto first =
      engine_->checkpoint_and_hold(*sandbox_, next_checkpoint(), [&](const HeldCheckpoint& held) {
        EXPECT_TRUE(fs::exists(flags)) << "CRIU asked the kernel, which takes it long";
        EXPECT_EQ(held.info.memory, "tracked");
        EXPECT_TRUE(held.confirm());
        return HoldVerdict::Resume;
      });
  ASSERT_TRUE(first) << first.error().message();
  auto checkpoint = next_checkpoint();
  int held = 0;
  Sandbox* target = nullptr;
  auto info = checkpoint_with(SIGUSR2, checkpoint, [&](const HeldCheckpoint& taken) {
    if (++held == 1) {
      EXPECT_FALSE(taken.confirm());
      EXPECT_FALSE(taken.confirm()) << "it is asked once more";
      return HoldVerdict::Kill;  // does not count
    }
    EXPECT_TRUE(taken.confirm());
    EXPECT_FALSE(fs::exists(flags));
    auto restored = restore(checkpoint);
    EXPECT_TRUE(restored) << restored.error().message() << "\n" << log_tail_;
    if (restored) target = *restored;
    return HoldVerdict::Kill;
  });
  ASSERT_TRUE(info) << info.error().message();
  EXPECT_EQ(held, 2);
  ASSERT_NE(target, nullptr);
  EXPECT_THAT(flags_of_large_mapping(*target), HasSubstr("dc "));
}

TEST_P(Foreknowledge, AdviceOfLongAgoIsCarried) {
  ASSERT_TRUE(sandbox_->signal(SIGUSR2));
  await_lines(*sandbox_, 2);
  auto checkpoint = next_checkpoint();
  auto info = engine_->checkpoint(*sandbox_, checkpoint);
  ASSERT_TRUE(info) << info.error().message();
  EXPECT_TRUE(fs::exists(sandbox_->images_directory() /
                         fmt::format("flags-{}", sandbox_->command_pid_inner())));
  ASSERT_TRUE(sandbox_->kill());
  auto restored = restore(checkpoint);
  ASSERT_TRUE(restored) << restored.error().message() << "\n" << log_tail_;
  EXPECT_THAT(flags_of_large_mapping(**restored), HasSubstr("dc "));
}

TEST_P(Foreknowledge, SemaphoreMadeJustBeforeTheFreezeIsCarried) {
  auto checkpoint = next_checkpoint();
  auto info = checkpoint_with(SIGHUP, checkpoint);
  ASSERT_TRUE(info) << info.error().message();
  ASSERT_TRUE(sandbox_->kill());
  auto restored = restore(checkpoint);
  ASSERT_TRUE(restored) << restored.error().message() << "\n" << log_tail_;
  ASSERT_TRUE((*restored)->signal(SIGUSR1));
  EXPECT_EQ(await_end(**restored).code, 0);
  EXPECT_THAT(output(**restored), HasSubstr("value 7"));
}

// Without System V objects no ipc namespace is dumped, and each restore has one of its own.
TEST_P(Foreknowledge, NothingOfIpcIsDumpedWhereThereIsNothing) {
  auto checkpoint = next_checkpoint();
  auto info = engine_->checkpoint(*sandbox_, checkpoint);
  ASSERT_TRUE(info) << info.error().message();
  for (const auto& image : fs::directory_iterator(checkpoint / "images"))
    EXPECT_THAT(image.path().filename().native(), Not(HasSubstr("ipcns")));
  ASSERT_TRUE(sandbox_->kill());
  Sandbox* others[2];
  for (Sandbox*& other : others) {
    auto restored = restore(checkpoint);
    ASSERT_TRUE(restored) << restored.error().message() << "\n" << log_tail_;
    other = *restored;
  }
  const auto length = output(*others[0]).size();
  ASSERT_TRUE(others[0]->signal(SIGHUP));
  await_lines(*others[0], 1, length);
  ASSERT_TRUE(others[1]->signal(SIGUSR1));
  EXPECT_EQ(await_end(*others[1]).code, 0);
  EXPECT_THAT(output(*others[1]), HasSubstr("none"));
  // And a checkpoint of the one that has a semaphore now brings it along.
  auto second = next_checkpoint();
  info = engine_->checkpoint(*others[0], second);
  ASSERT_TRUE(info) << info.error().message();
  ASSERT_TRUE(others[0]->kill());
  auto restored = restore(second);
  ASSERT_TRUE(restored) << restored.error().message() << "\n" << log_tail_;
  ASSERT_TRUE((*restored)->signal(SIGUSR1));
  EXPECT_EQ(await_end(**restored).code, 0);
  EXPECT_THAT(output(**restored), HasSubstr("value 7"));
}

TEST(IpcState, TellsAnEmptyNamespace) {
  auto fresh = sys::fresh_ipc_state();
  ASSERT_TRUE(fresh) << fresh.error().message();
  EXPECT_THAT(*fresh, HasSubstr("/proc/sysvipc/sem"));
  EXPECT_EQ(*fresh, *sys::fresh_ipc_state());
}

TEST(MappingFlags, AreThoseThatSmapsTells) {
  auto flags = sys::parse_mapping_flags(
      "7f00-7f01 rw-p 00000000 00:00 0 \nRss: 4 kB\nVmFlags: rd wr lo\n"
      "7f02-7f03 r--p 00001000 fe:00 12    /bin/a file\nVmFlags: rd\n");
  ASSERT_EQ(flags.size(), 2u);
  EXPECT_EQ(flags[0], (sys::MappingFlags{"7f00-7f01 rw-p 00000000 00:00 0", "rd wr lo"}));
  EXPECT_EQ(flags[1], (sys::MappingFlags{"7f02-7f03 r--p 00001000 fe:00 12", "rd"}));
}

}  // namespace
}  // namespace baton::agent
