// Checkpoints by soft-dirty with a real CRIU. Where the kernel has no soft-dirty, CRIU is made to
// believe that it has, and the marks are simulated (fakes/soft_dirty_shim.cc).
#include <gmock/gmock.h>
#include <poll.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>

#include "agent/engine/tracked_space.h"
#include "agent_engine_fixture.h"
#include "criu/session.h"
#include "image_pages.h"
#include "sys/file.h"
#include "sys/process_attributes.h"

namespace baton::agent {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::StartsWith;

// Whether there are fault points is decided at the first one that is passed.
const int faults_enabled = ::setenv("BATON_FAULTS", "", 0);

class SoftDirtyEngine : public EngineTest {
 protected:
  void SetUp() override {
    EngineTest::SetUp();
    if (IsSkipped()) return;
    ASSERT_EQ(faults_enabled, 0);
    engine_ = make({.cache_directory = directory_ / "cache", .soft_dirty = true});
  }
  void TearDown() override {
    track_pages(true);
    EngineTest::TearDown();
  }
  static std::unique_ptr<Engine> make(EngineOptions options) {
    auto engine = make_engine(std::move(options));
    EXPECT_TRUE(engine) << engine.error().message();
    return std::move(*engine);
  }
  // Off: as on a kernel before 6.7.
  static void track_pages(bool on) {
    ::setenv("BATON_FAULTS", on ? "" : "track.before_dump=errors", 1);
  }

  Sandbox* start_memwork(const std::vector<std::string>& more) {
    std::vector<std::string> argv = {program_directory() / "memwork",
                                     "--result",
                                     "-",
                                     "--ready",
                                     "-",
                                     "--scratch",
                                     "/var/tmp/scratch",
                                     "--mb",
                                     "8",
                                     "--threads",
                                     "2",
                                     "--pages-per-ms",
                                     "0.3"};
    argv.insert(argv.end(), more.begin(), more.end());
    Sandbox* sandbox = start_command(argv);
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
};

TEST_F(SoftDirtyEngine, IsOnlyForWhatCannotBeTracked) {
  if (auto ability = sys::probe_tracking(); !ability.available)
    GTEST_SKIP() << "no page tracking here: " << ability.reason;
  Sandbox* sandbox = start_memwork({});
  ASSERT_NE(sandbox, nullptr);
  auto info = engine_->checkpoint(*sandbox, next_checkpoint());
  ASSERT_TRUE(info) << info.error().message();
  EXPECT_EQ(info->memory, "tracked");
}

// Believing that CRIU can where it can't costs a try: CRIU refuses before it touches the job.
TEST_F(SoftDirtyEngine, WhereCriuRefusesEverythingIsDumped) {
  Sandbox* sandbox = start_memwork({});
  ASSERT_NE(sandbox, nullptr);
  auto worker = sandbox->launch_criu();
  ASSERT_TRUE(worker) << worker.error().message();
  criu::Session session(std::move(worker->socket), std::move(worker->pidfd));
  auto can = session.can_track_memory();
  ASSERT_TRUE(can) << can.error().message();
  if (*can) GTEST_SKIP() << "this kernel has soft-dirty";
  track_pages(false);
  for (int i = 0; i < 2; ++i) {
    auto checkpoint = next_checkpoint();
    auto info = engine_->checkpoint(*sandbox, checkpoint);
    ASSERT_TRUE(info) << info.error().message();
    EXPECT_THAT(info->memory, StartsWith("full: "));
    EXPECT_THAT(info->memory, HasSubstr("Tracking memory is not available"));
    if (i == 0) continue;
    ASSERT_TRUE(sandbox->kill());
    auto restored = restore(checkpoint);
    ASSERT_TRUE(restored) << restored.error().message() << "\n" << log_tail_;
    expect_memory_holds(**restored);
  }
}

class SimulatedSoftDirty : public SoftDirtyEngine {
 protected:
  void SetUp() override {
    SoftDirtyEngine::SetUp();
    if (IsSkipped()) return;
    ability_ = sys::probe_tracking();
    if (!ability_.available) GTEST_SKIP() << "marks can't be simulated: " << ability_.reason;
    const fs::path build = program_directory().parent_path(), own = directory_ / "programs";
    fs::create_directory(own);
    fs::copy_file(build / "baton-init", own / "baton-init");
    fs::copy_file(build / "criu-shim-soft-dirty.so", own / "criu-shim.so");
    ::setenv("BATON_INIT", (own / "baton-init").c_str(), 1);
    auto packs = PagePacks::create(directory_ / "unused-packs");
    ASSERT_TRUE(packs) << packs.error().message();
    packs_ = std::move(*packs);
    full_engine_ = make({.cache_directory = directory_ / "cache", .track_memory = false});
    persuade_criu();
    track_pages(false);
  }
  void TearDown() override {
    ::unsetenv("BATON_INIT");
    spaces_.clear();
    SoftDirtyEngine::TearDown();
  }

  // CRIU keeps what it found out about the kernel in a file, which all sandboxes of a test share.
  void persuade_criu() {
    Sandbox* sandbox = start_memwork({});
    ASSERT_NE(sandbox, nullptr);
    auto info = full_engine_->checkpoint(*sandbox, next_checkpoint());
    ASSERT_TRUE(info) << info.error().message();
    end_sandboxes();
    auto facts = sys::read_file(directory_ / "kdat");
    ASSERT_TRUE(facts) << facts.error().message();
    // struct kerndat_s of CRIU's criu/include/kerndat.h: two magic words, shmem_dev, last_cap,
    // zero_page_pfn, has_dirty_track, has_memfd.
    constexpr std::size_t has_dirty_track = 32;
    ASSERT_GT(facts->size(), has_dirty_track + 1);
    ASSERT_EQ((*facts)[has_dirty_track + 1], 1) << "CRIU keeps its facts in another way";
    (*facts)[has_dirty_track] = 1;
    ASSERT_TRUE(sys::write_file_durable(directory_ / "kdat", *facts, 0600));
  }

  // Before the dump, so that what is written after it is noticed.
  void watch(Sandbox& sandbox) {
    auto processes = sandbox.processes();
    ASSERT_TRUE(processes) << processes.error().message() << "\n" << output(sandbox);
    for (auto [inner, pid] : *processes) {
      if (auto known = spaces_.find(pid); known != spaces_.end()) {
        (void)known->second->register_mappings(pid);
        continue;
      }
      // One that ends just now has no pages that matter, and one that can't be watched is marked.
      if (auto space = TrackedSpace::attach(pid, *packs_, ability_))
        spaces_.emplace(pid, std::move(*space));
    }
  }
  static void take_marks_off(Sandbox& sandbox) {
    auto processes = sandbox.processes();
    ASSERT_TRUE(processes) << processes.error().message();
    for (auto [inner, pid] : *processes) {
      auto pagemap = sys::Pagemap::open(pid);
      if (!pagemap) continue;
      std::vector<sys::PageRegion> regions;
      (void)pagemap->scan(
          {.required = sys::page_is_wp_allowed | sys::page_is_written | sys::page_is_present,
           .write_protect = true},
          regions);
    }
  }
  Result<CheckpointInfo> take(Sandbox& sandbox, fs::path& checkpoint) {
    watch(sandbox);
    for (int left = 8;; --left) {
      checkpoint = next_checkpoint();
      auto info = engine_->checkpoint_and_hold(sandbox, checkpoint, [&](const HeldCheckpoint&) {
        take_marks_off(sandbox);
        return HoldVerdict::Resume;
      });
      // A process that ends just when CRIU seizes it makes CRIU give up.
      if (info || left == 0 || info.error().code() == ErrorCode::Damaged) return info;
    }
  }

  // All but the root of the tree, which blocks signals.
  static void signal_all(Sandbox& sandbox, int number) {
    auto processes = sandbox.processes();
    ASSERT_TRUE(processes) << processes.error().message();
    for (auto [inner, pid] : *processes) {
      if (inner == sandbox.root_pid_inner()) continue;
      ::kill(pid, number);
      auto at_rest = [&] {
        for (pid_t tid : sys::thread_ids(pid))
          if (auto state = sys::status_field(tid, "State"); !state || state->front() != 'T')
            return false;
        return true;
      };
      while (number == SIGSTOP && !at_rest()) ::poll(nullptr, 0, 1);
    }
  }
  // It stands still since `ours` was taken.
  void expect_as_full_dump(Sandbox& sandbox, const fs::path& ours) {
    const fs::path full = next_checkpoint(), images = directory_ / "complete";
    auto info = full_engine_->checkpoint(sandbox, full);
    ASSERT_TRUE(info) << info.error().message();
    auto completed = complete_images(ours, images);
    ASSERT_TRUE(completed) << completed.error().message();
    auto processes = sandbox.processes();
    ASSERT_TRUE(processes) << processes.error().message();
    for (auto [inner, pid] : *processes) {
      auto a = read_image_pages(images, inner);
      auto b = read_image_pages(full / "images", inner);
      ASSERT_TRUE(a) << a.error().message();
      ASSERT_TRUE(b) << b.error().message();
      EXPECT_EQ(a->size(), b->size());
      for (const auto& [address, page] : *b) {
        ASSERT_TRUE(a->contains(address)) << inner << " lacks " << std::hex << address;
        EXPECT_EQ(page_differences(page, a->at(address)), "")
            << inner << " at " << std::hex << address;
      }
    }
  }

  sys::TrackingAbility ability_;
  std::unique_ptr<PagePacks> packs_;  // outlives the spaces; nothing is copied to it
  std::map<pid_t, std::unique_ptr<TrackedSpace>> spaces_;
  std::unique_ptr<Engine> full_engine_;
};

TEST_F(SimulatedSoftDirty, ChainsOfDumpsHoldWhatMemoryWas) {
  Sandbox* sandbox = start_memwork({"--processes", "3"});
  ASSERT_NE(sandbox, nullptr);
  std::uint64_t first_pages = 0;
  for (int i = 0; i < 4 && !HasFailure(); ++i) {
    ::poll(nullptr, 0, 50);
    signal_all(*sandbox, SIGSTOP);
    fs::path checkpoint;
    auto info = take(*sandbox, checkpoint);
    ASSERT_TRUE(info) << info.error().message();
    EXPECT_THAT(info->memory, StartsWith("soft-dirty: "));
    if (i == 0) first_pages = info->steps.frozen_pages;
    EXPECT_GE(info->memory_bytes, std::uint64_t{3} * 8 << 20);
    if (i > 0) {
      EXPECT_LT(info->steps.frozen_pages, first_pages / 4);
    }
    expect_as_full_dump(*sandbox, checkpoint);
    signal_all(*sandbox, SIGCONT);
  }
  expect_memory_holds(*sandbox);
}

TEST_F(SimulatedSoftDirty, RestoredElsewhereTheProgramGoesOn) {
  Sandbox* sandbox = start_memwork({"--churn", "2"});
  ASSERT_NE(sandbox, nullptr);
  for (int move = 0; move < 2 && !HasFailure(); ++move) {
    fs::path checkpoint;
    for (int i = 0; i < 4; ++i) {
      ::poll(nullptr, 0, 30);
      auto info = take(*sandbox, checkpoint);
      ASSERT_TRUE(info) << info.error().message();
      EXPECT_THAT(info->memory, StartsWith("soft-dirty: "));
    }
    ASSERT_TRUE(sandbox->kill());
    spaces_.clear();
    auto restored =
        restore(checkpoint, {.memory = move ? RestoreMemory::Lazy : RestoreMemory::Eager});
    ASSERT_TRUE(restored) << restored.error().message() << "\n" << log_tail_;
    sandbox = *restored;
  }
  expect_memory_holds(*sandbox);
}

}  // namespace
}  // namespace baton::agent
