// Events that a program has not read from inotify yet, which CRIU does not carry.
#include <gtest/gtest.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <thread>

#include "agent/engine/unread_events.h"
#include "agent_engine_fixture.h"
#include "base/fd.h"

namespace baton::agent {
namespace {

namespace fs = std::filesystem;

// Whether there are fault points is decided at the first one that is passed.
const int faults_enabled = ::setenv("BATON_FAULTS", "", 0);

class UnreadEventsTest : public EngineTest {
 protected:
  void TearDown() override {
    ::setenv("BATON_FAULTS", "", 1);
    EngineTest::TearDown();
  }
  Sandbox* start_watcher(const std::vector<std::string>& arguments) {
    std::vector<std::string> argv = {program_directory() / "watcher"};
    argv.insert(argv.end(), arguments.begin(), arguments.end());
    Sandbox* sandbox = start_command(argv);
    if (sandbox) await_lines(*sandbox, 1);
    return sandbox;
  }
};

// The event comes in the 400 ms before the first freeze and is read before the second can be.
TEST_F(UnreadEventsTest, AreReadBeforeTheCheckpoint) {
  ASSERT_EQ(faults_enabled, 0);
  Sandbox* sandbox = start_watcher({"600"});
  ASSERT_NE(sandbox, nullptr);
  ::setenv("BATON_FAULTS", "dump.before_freeze=delay:400", 1);
  std::thread program([&] {
    while (!fs::exists(sandbox->images_directory() / "stopped")) ::usleep(1000);
    EXPECT_TRUE(sandbox->signal(SIGUSR1));
  });
  auto checkpoint = next_checkpoint();
  auto info = engine_->checkpoint(*sandbox, checkpoint);
  program.join();
  ASSERT_TRUE(info) << info.error().message();
  EXPECT_EQ(output(*sandbox).substr(0, info->output_bytes), "ready\nmade\nread\n");
  ASSERT_TRUE(sandbox->kill());
  auto restored = restore(checkpoint);
  ASSERT_TRUE(restored) << restored.error().message() << "\n" << log_tail_;
  ASSERT_TRUE((*restored)->signal(SIGUSR1));
  await_lines(**restored, 2, info->output_bytes);
  EXPECT_EQ(output(**restored).substr(info->output_bytes), "made\nread\n");
}

TEST_F(UnreadEventsTest, ThatNobodyReadsAreNoObstacle) {
  Sandbox* sandbox = start_watcher({});
  ASSERT_NE(sandbox, nullptr);
  ASSERT_TRUE(sandbox->signal(SIGUSR1));
  await_lines(*sandbox, 2);
  for (int i = 0; i < 2; ++i) {
    auto info = engine_->checkpoint(*sandbox, next_checkpoint());
    ASSERT_TRUE(info) << info.error().message();
  }
}

TEST(UnreadEvents, AreWaitedForALimitedNumberOfTimes) {
  std::string folder = "/var/tmp/baton-events-XXXXXX";
  ASSERT_NE(::mkdtemp(folder.data()), nullptr);
  const Fd watcher(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  ASSERT_GE(::inotify_add_watch(watcher.get(), folder.c_str(), IN_CREATE), 0);
  const Processes processes = {{1, ::getpid()}};
  UnreadEvents events("");
  EXPECT_FALSE(events.worth_another_try(processes));
  for (int round = 0; round < 2; ++round) {
    fs::create_directory(folder + fmt::format("/{}", round));
    for (int i = 0; i < 3; ++i) EXPECT_TRUE(events.worth_another_try(processes));
    // Nor at the next checkpoint, nor when there are more.
    EXPECT_FALSE(events.worth_another_try(processes));
    fs::create_directory(folder + fmt::format("/{}-more", round));
    EXPECT_FALSE(events.worth_another_try(processes));
    char buffer[4096];
    EXPECT_GT(::read(watcher.get(), buffer, sizeof buffer), 0);
    EXPECT_FALSE(events.worth_another_try(processes));
  }
  fs::remove_all(folder);
}

}  // namespace
}  // namespace baton::agent
