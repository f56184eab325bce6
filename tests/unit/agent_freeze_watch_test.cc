// A freeze that lasts too long is ended, and the job is none the worse for it.
#include <gmock/gmock.h>
#include <poll.h>

#include <csignal>
#include <cstdlib>
#include <random>
#include <sstream>
#include <thread>

#include "agent/engine/freeze_watch.h"
#include "agent_engine_fixture.h"
#include "base/clock.h"
#include "sys/file.h"

namespace baton::agent {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;
using testing::HasSubstr;

// Whether there are fault points is decided at the first one that is passed.
const int faults_enabled = ::setenv("BATON_FAULTS", "", 0);

TEST(FreezeWatch, TriesUntilTheFreezeIsEnded) {
  std::atomic<int> calls = 0;
  FreezeWatch watch(milliseconds(20), [&] {
    ++calls;
    calls.notify_all();
    return calls == 3;
  });
  watch.begin();
  for (int seen = calls; seen < 3; seen = calls) calls.wait(seen);
  EXPECT_TRUE(watch.end());
  EXPECT_EQ(calls, 3);
}

TEST(FreezeWatch, LeavesAShortFreezeAlone) {
  std::atomic<int> calls = 0;
  auto count = [&] { return ++calls > 0; };
  FreezeWatch never_begun(milliseconds(1), count), no_limit(milliseconds(0), count);
  FreezeWatch short_freeze(milliseconds(60'000), count);
  no_limit.begin();
  short_freeze.begin();
  ::poll(nullptr, 0, 20);
  EXPECT_FALSE(never_begun.end());
  EXPECT_FALSE(no_limit.end());
  EXPECT_FALSE(short_freeze.end());
  EXPECT_EQ(calls, 0);
}

TEST(FreezeWatch, WaitsForWhatWasNotForeseen) {
  std::atomic<int> calls = 0;
  FreezeWatch watch(milliseconds(30), [&] { return ++calls > 0; });
  watch.begin();
  watch.extend(milliseconds(60'000));
  ::poll(nullptr, 0, 60);
  EXPECT_FALSE(watch.end());
  EXPECT_EQ(calls, 0);
  EXPECT_EQ(watch.limit(), milliseconds(60'030));
}

class FreezeLimit : public EngineTest {
 protected:
  void SetUp() override {
    EngineTest::SetUp();
    if (IsSkipped()) return;
    ASSERT_EQ(faults_enabled, 0);
  }
  void TearDown() override {
    arm("");
    EngineTest::TearDown();
  }
  void limit_freezes(bool tracked, milliseconds limit = milliseconds(400)) {
    EngineOptions options;
    options.cache_directory = directory_ / "cache";
    options.track_memory = tracked;
    options.freeze_limit = limit;
    options.freeze_limit_per_gib = milliseconds(1000);
    options.criu_silence_limit = milliseconds(8'000);
    auto engine = make_engine(options);
    ASSERT_TRUE(engine) << engine.error().message();
    engine_ = std::move(*engine);
  }
  // And what it prints afterwards has no gap, over a move.
  void expect_it_goes_on(Sandbox& sandbox) {
    await_lines(sandbox, 5, output(sandbox).size());
    auto checkpoint = next_checkpoint();
    auto again = engine_->checkpoint(sandbox, checkpoint);
    ASSERT_TRUE(again) << again.error().message();
    ASSERT_TRUE(sandbox.kill());
    auto restored = restore(checkpoint);
    ASSERT_TRUE(restored) << restored.error().message() << log_tail_;
    await_lines(**restored, 5, again->output_bytes);
    expect_whole(**restored, output(sandbox).substr(0, again->output_bytes));
  }
  static void arm(const std::string& faults) { ::setenv("BATON_FAULTS", faults.c_str(), 1); }
};

TEST_F(FreezeLimit, ThawsTheJobAndFailsTheCheckpoint) {
  for (bool tracked : {true, false}) {
    for (const char* workload : {"threads", "pipes", "events"}) {
      SCOPED_TRACE(fmt::format("{} {}", workload, tracked));
      limit_freezes(tracked);
      Sandbox* sandbox = start_workload(workload);
      ASSERT_NE(sandbox, nullptr);
      auto before = output(*sandbox).size();
      arm("dump.frozen=delay:2500");
      auto checkpoint = next_checkpoint();
      auto info = engine_->checkpoint(*sandbox, checkpoint);
      auto after = output(*sandbox).size();
      arm("");
      ASSERT_FALSE(info);
      EXPECT_EQ(info.error().code(), ErrorCode::TimedOut) << info.error().message();
      EXPECT_THAT(info.error().message(), HasSubstr("stood still for more than 4"));
      EXPECT_FALSE(fs::exists(checkpoint));
      EXPECT_GT(after - before, 100u) << "it stood still until the checkpoint had failed";
      expect_it_goes_on(*sandbox);
    }
  }
}

// Whether a task runs a call of CRIU's is looked at and CRIU is killed in one: it must not begin
// another call in between, of which the task would die with SIGTRAP.
TEST_F(FreezeLimit, HarmsNothingWhileCriuIsAtWork) {
  Sandbox* sandbox = start_workload("threads");
  ASSERT_NE(sandbox, nullptr);
  int let_go = 0;
  for (int round = 0; round < 120; ++round) {
    limit_freezes(false, milliseconds(1 + round % 12));
    auto info = engine_->checkpoint(*sandbox, next_checkpoint());
    if (info) continue;
    ++let_go;
    ASSERT_EQ(info.error().code(), ErrorCode::TimedOut)
        << "round " << round << ": " << info.error().message();
  }
  EXPECT_GT(let_go, 0);
  std::printf("let go of %d times\n", let_go);
  limit_freezes(true);
  expect_it_goes_on(*sandbox);
}

TEST_F(FreezeLimit, DoesNotBindAHeldCheckpoint) {
  limit_freezes(true);
  Sandbox* sandbox = start_workload("threads");
  ASSERT_NE(sandbox, nullptr);
  auto info = engine_->checkpoint_and_hold(*sandbox, next_checkpoint(), [](const HeldCheckpoint&) {
    ::poll(nullptr, 0, 1000);
    return HoldVerdict::Resume;
  });
  ASSERT_TRUE(info) << info.error().message();
  expect_it_goes_on(*sandbox);
}

// The pid of CRIU in the sandbox, as soon as it writes its log; 0 when it does not.
pid_t await_criu(const Sandbox& sandbox) {
  for (auto deadline = boot_time_ms() + 5000; boot_time_ms() < deadline;
       std::this_thread::yield()) {
    auto children = sys::read_file(fmt::format("/proc/{0}/task/{0}/children", sandbox.init_pid()));
    std::istringstream list(children ? *children : "");
    for (pid_t child; list >> child;) {
      auto words = sys::read_file(fmt::format("/proc/{}/cmdline", child));
      if (words && words->contains("criu") && fs::exists(sandbox.images_directory() / "dump.log"))
        return child;
    }
  }
  return 0;
}

// CRIU hangs at a random instant of the dump. The job goes on after the limit, unless CRIU had just
// lent a task a call of its own: then its end waits for the limit on CRIU's silence, and the job
// runs on or is reported as not to be trusted.
TEST_F(FreezeLimit, CriuThatHangsIsLetGoOf) {
  std::mt19937 random(20250611);
  int thawed = 0, finished = 0, damaged = 0;
  for (int round = 0; round < 8; ++round) {
    SCOPED_TRACE(round);
    limit_freezes(true);
    Sandbox* sandbox = start_workload(round % 2 ? "threads" : "shm");
    ASSERT_NE(sandbox, nullptr);
    auto delay_us = std::uniform_int_distribution<useconds_t>(0, 60'000)(random);
    std::jthread stopper([&] {
      pid_t criu = await_criu(*sandbox);
      ::usleep(delay_us);
      if (criu > 0) ::kill(criu, SIGSTOP);
    });
    auto began_ms = boot_time_ms();
    auto info = engine_->checkpoint(*sandbox, next_checkpoint());
    auto took_ms = boot_time_ms() - began_ms;
    stopper.join();
    if (!info && info.error().code() == ErrorCode::Damaged) {
      ++damaged;
      continue;
    }
    if (info) {
      ++finished;
    } else {
      ++thawed;
      EXPECT_EQ(info.error().code(), ErrorCode::TimedOut) << info.error().message();
      EXPECT_LT(took_ms, 12'000);
    }
    expect_it_goes_on(*sandbox);
  }
  std::printf("hung %d times: let go %d, done by then %d, reported as damaged %d\n",
              thawed + finished + damaged, thawed, finished, damaged);
  EXPECT_GT(thawed, 0);
}

}  // namespace
}  // namespace baton::agent
