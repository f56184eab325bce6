#include <gmock/gmock.h>
#include <sys/wait.h>

#include <csignal>
#include <cstdlib>
#include <random>
#include <set>
#include <thread>

#include "agent_tracker_fixture.h"
#include "base/clock.h"
#include "sys/file.h"
#include "sys/process_attributes.h"

namespace baton::agent {
namespace {

namespace fs = std::filesystem;

class TrackedCheckpoint : public TrackerTest {
 protected:
  void SetUp() override {
    TrackerTest::SetUp();
    if (!IsSkipped() && !have_criu()) GTEST_SKIP() << "no CRIU: run scripts/provision-criu";
  }
};

TEST_F(TrackedCheckpoint, RestoresAndChecksOut) {
  auto process = start({"--mb", "256", "--threads", "2", "--pages-per-ms", "20"});
  auto tracker = make_tracker();
  auto images = make_directory("images");
  auto taken = checkpoint(*tracker, process.pid, images);
  ASSERT_TRUE(taken) << taken.error().message();
  ASSERT_EQ(tracker->report().size(), 1u);
  EXPECT_EQ(tracker->report().front().tier, MemoryTier::Tracked)
      << tracker->report().front().reason;
  EXPECT_GT(precopy_.pages_per_round.at(0), 65'000u);
  EXPECT_LT(tracker->frozen_pages(), 5'000u);
  end(process.pid);
  auto restored = restore(images);
  ASSERT_TRUE(restored) << restored.error().message();
  EXPECT_TRUE(checks_out(*restored));
}

// Every process of the tree, those forked meanwhile too; returns when all of them stand still.
void stop_tree(pid_t root) {
  std::set<pid_t> stopped;
  for (bool more = true; more;) {
    more = false;
    for (pid_t pid : sys::process_tree(root)) {
      if (!stopped.insert(pid).second) continue;
      more = true;
      ::kill(pid, SIGSTOP);
      auto state = sys::status_field(pid, "State");
      while (state && !state->starts_with('T') && !state->starts_with('Z')) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
        state = sys::status_field(pid, "State");
      }
    }
  }
  // The state of a process is its leader's: the others follow at their next step.
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
}

// Stopped by job control in between, both dumps see the same instant.
TEST_F(TrackedCheckpoint, SameBytesAsAStockDump) {
  auto process = start({"--mb", "64", "--threads", "2", "--pages-per-ms", "50", "--churn", "1"});
  auto tracker = make_tracker();
  ASSERT_TRUE(tracker->refresh(sys::process_tree(process.pid)));
  ASSERT_TRUE(tracker->precopy());
  stop_tree(process.pid);
  auto ours = make_directory("ours"), stock = make_directory("stock");
  auto taken = checkpoint(*tracker, process.pid, ours);
  ASSERT_TRUE(taken) << taken.error().message();
  tracker->release();
  auto dumped = full_dump(process.pid, stock);
  ASSERT_TRUE(dumped) << dumped.error().message();
  for (pid_t pid : sys::process_tree(process.pid)) {
    if (!has_image_pages(stock, pid)) continue;  // a zombie
    auto a = read_image_pages(ours, pid), b = read_image_pages(stock, pid);
    ASSERT_TRUE(a) << a.error().message();
    ASSERT_TRUE(b) << b.error().message();
    for (const auto& [address, page] : *b) {
      ASSERT_TRUE(a->contains(address)) << std::hex << address;
      EXPECT_EQ(page_differences(page, a->at(address)), "") << pid << " at " << std::hex << address;
    }
    EXPECT_EQ(a->size(), b->size());
  }
}

// Checkpoints at random instants of a program that forks, maps, unmaps, moves, drops and writes;
// the last of each few is restored and must hold. BATON_TRACKER_RUNS makes it longer, and
// BATON_TRACKER_SEED repeats one run.
TEST_F(TrackedCheckpoint, RandomInstantsOfARestlessProgram) {
  const char* asked = std::getenv("BATON_TRACKER_RUNS");
  const char* fixed = std::getenv("BATON_TRACKER_SEED");
  int runs = asked ? std::atoi(asked) : 3;
  auto first = fixed ? std::strtoull(fixed, nullptr, 10)
                     : static_cast<unsigned long long>(boot_time_ns() % 1'000'000);
  for (int run = 0; run < runs; ++run) {
    SCOPED_TRACE(fmt::format("BATON_TRACKER_SEED={}", first + run));
    std::mt19937_64 random(first + run);
    auto process = start({"--mb", "48", "--threads", "3", "--pages-per-ms", "30", "--churn", "1",
                          "--seed", std::to_string(first + run)});
    TrackerOptions options;
    options.freeze_bytes = random() % 3 ? 16u << 20 : 512u << 10;  // at times too small
    options.rounds_max = 1 + random() % 4;
    auto tracker = make_tracker(options);
    fs::path images;
    for (int i = 0, count = 1 + static_cast<int>(random() % 3); i < count; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(random() % 120));
      images = make_directory(fmt::format("images-{}-{}", run, i));
      auto taken = checkpoint(*tracker, process.pid, images);
      // CRIU gives up when a process ends in the moment it is seized, which the forking makes
      // likely. The job runs on, tracked, and the next attempt is as good as any.
      for (int more = 5; more > 0 && !taken; --more) {
        ASSERT_TRUE(taken.error().message().contains("Unable to detach"))
            << taken.error().message();
        taken = checkpoint(*tracker, process.pid, images);
      }
      ASSERT_TRUE(taken) << taken.error().message();
    }
    tracker.reset();
    end(process.pid);
    auto restored = restore(images);
    // Outside of a sandbox somebody else's process may have got one of the pids meanwhile.
    bool pid_taken = !restored && restored.error().message().contains("File exists");
    ASSERT_TRUE(restored || pid_taken) << restored.error().message();
    if (restored) {
      ASSERT_TRUE(checks_out(*restored));
    }
    for (const auto& entry : fs::directory_iterator(directory_))
      if (entry.path().filename().string().starts_with("images")) fs::remove_all(entry.path());
  }
}

}  // namespace
}  // namespace baton::agent
