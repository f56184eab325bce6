// The proof that checkpoints miss nothing: a program that checks its memory all the time is
// checkpointed at random instants while it forks, maps, unmaps, moves, drops and writes in several
// threads. Each checkpoint is restored in another sandbox and must check out there; of some, every
// byte of memory is compared with a full dump of the same instant.
//
//   BATON_PROVE_COUNT=N   checkpoints (default 200)
//   BATON_PROVE_FULL=1    with full dumps instead: tells failures of CRIU's from those of tracking
//   BATON_PROVE_SEED=N    repeats the choices of a run, though not the program's scheduling
//
// What a failed one was taken from and its logs are kept beside this program, in evidence/.
#include <gmock/gmock.h>
#include <poll.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <random>
#include <set>
#include <thread>

#include "base/clock.h"
#include "sys/file.h"
#include "sys/process_attributes.h"
#include "sys/userfaultfd.h"
#include "unit/agent_engine_fixture.h"
#include "unit/image_pages.h"

namespace baton::agent {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::StartsWith;

constexpr int per_program = 10;   // checkpoints of one run of the program
constexpr int compare_every = 5;  // a comparison needs the program to be stopped

std::uint64_t number_from(const char* variable, std::uint64_t otherwise) {
  const char* text = std::getenv(variable);
  return text && *text ? std::strtoull(text, nullptr, 10) : otherwise;
}

class ProveCheckpoints : public EngineTest {
 protected:
  void SetUp() override {
    EngineTest::SetUp();
    if (IsSkipped()) return;
    auto ability = sys::probe_tracking();
    if (!ability.available) GTEST_SKIP() << "no page tracking here: " << ability.reason;
    auto full = make_engine({.cache_directory = directory_ / "cache", .track_memory = false});
    ASSERT_TRUE(full) << full.error().message();
    full_engine_ = std::move(*full);
  }

  Sandbox* start_program(std::uint64_t seed) {
    Sandbox* sandbox =
        start_command({program_directory() / "memwork", "--mb", "12", "--threads", "2",
                       "--pages-per-ms", "20", "--churn", "2", "--seed", std::to_string(seed),
                       "--scratch", "/var/tmp/scratch", "--result", "-", "--ready", "-"});
    if (sandbox) await_lines(*sandbox, 1);
    return sandbox;
  }

  // A process that ends just when CRIU seizes it makes CRIU give up; the next attempt is as good.
  Result<CheckpointInfo> take(Engine& engine, Sandbox& sandbox, fs::path& checkpoint) {
    for (int left = 8;; --left) {
      checkpoint = next_checkpoint();
      auto info = engine.checkpoint(sandbox, checkpoint);
      if (info || left == 0) return info;
      if (info.error().code() == ErrorCode::Damaged) return info;
      ++repeated_;
    }
  }

  void check_out(Sandbox& sandbox) {
    ASSERT_TRUE(sandbox.signal(SIGUSR1));
    SandboxExit end = await_end(sandbox);
    EXPECT_EQ(end.kind, SandboxExit::Kind::Exited);
    EXPECT_EQ(end.code, 0);
    EXPECT_THAT(output(sandbox), HasSubstr("OK "));
  }

  static std::string state_of(Sandbox& sandbox) {
    auto exit = sandbox.exit();
    return fmt::format("the program {}; its output: {}",
                       exit ? fmt::format("ended with {}", exit->code) : "runs", output(sandbox));
  }
  // Stops or continues all processes, those forked meanwhile too, but for the root of the tree: it
  // blocks signals, and CRIU fails to restore a process to which a SIGCONT is still to be
  // delivered.
  static void signal_all(Sandbox& sandbox, int number);
  void compare(Sandbox& sandbox, const fs::path& ours);
  void keep_evidence(const std::string& name, const fs::path& checkpoint);

  std::unique_ptr<Engine> full_engine_;
  std::uint64_t pages_compared_ = 0;
  int repeated_ = 0;
};

void ProveCheckpoints::signal_all(Sandbox& sandbox, int number) {
  auto at_rest = [](pid_t pid) {
    for (pid_t tid : sys::thread_ids(pid))
      if (auto state = sys::status_field(tid, "State");
          state && !std::string_view("TtZX").contains(state->front()))
        return false;
    return true;
  };
  std::set<pid_t> done;
  for (bool more = true; more;) {
    more = false;
    auto processes = sandbox.processes();
    ASSERT_TRUE(processes) << processes.error().message();
    for (auto [inner, pid] : *processes) {
      if (inner == sandbox.root_pid_inner() || !done.insert(pid).second) continue;
      more = true;
      ::kill(pid, number);
      // The kernel tells nobody but the parent.
      while (number == SIGSTOP && !at_rest(pid)) ::poll(nullptr, 0, 1);
    }
  }
}

// The sandbox is stopped: a full dump sees the same memory as `ours` did.
void ProveCheckpoints::compare(Sandbox& sandbox, const fs::path& ours) {
  fs::path full;
  auto info = take(*full_engine_, sandbox, full);
  ASSERT_TRUE(info) << info.error().message();
  const fs::path images = directory_ / "images-of-ours";
  auto completed = complete_images(ours, images);
  ASSERT_TRUE(completed) << completed.error().message();
  auto processes = sandbox.processes();
  ASSERT_TRUE(processes);
  for (auto [inner, pid] : *processes) {
    if (!has_image_pages(full / "images", inner)) continue;  // a zombie
    auto a = read_image_pages(images, inner);
    auto b = read_image_pages(full / "images", inner);
    ASSERT_TRUE(a) << a.error().message();
    ASSERT_TRUE(b) << b.error().message();
    for (const auto& [address, page] : *b) {
      ASSERT_TRUE(a->contains(address)) << inner << " lacks " << std::hex << address;
      EXPECT_EQ(page_differences(page, a->at(address)), "")
          << inner << " at " << std::hex << address;
    }
    EXPECT_EQ(a->size(), b->size());
    pages_compared_ += b->size();
  }
  ASSERT_TRUE(sys::remove_tree(full));
}

void ProveCheckpoints::keep_evidence(const std::string& name, const fs::path& checkpoint) {
  fs::path place = program_directory().parent_path() / "evidence" / name;
  std::error_code error;
  fs::remove_all(place, error);
  fs::create_directories(place);
  fs::copy(checkpoint, place / "checkpoint",
           fs::copy_options::recursive | fs::copy_options::copy_symlinks, error);
  (void)sys::write_file_durable(place / "restore-log", log_tail_);
  std::printf("evidence is in %s\n", place.c_str());
}

TEST_F(ProveCheckpoints, EachRestoresElsewhereAndChecksOut) {
  const auto count = static_cast<int>(number_from("BATON_PROVE_COUNT", 200));
  const std::uint64_t seed = number_from(
      "BATON_PROVE_SEED", static_cast<std::uint64_t>(boot_time_ns()) / 1000 % 1'000'000);
  const bool full = number_from("BATON_PROVE_FULL", 0) != 0;
  std::printf("BATON_PROVE_SEED=%llu BATON_PROVE_COUNT=%d\n", static_cast<unsigned long long>(seed),
              count);
  std::mt19937_64 random(seed);
  Sandbox* source = nullptr;
  int restored_count = 0, compared = 0, moved = 0;
  for (int i = 0; i < count; ++i) {
    SCOPED_TRACE(fmt::format("BATON_PROVE_SEED={}, checkpoint {} of {}", seed, i + 1, count));
    if (i % per_program == 0) {
      if (source) check_out(*source);
      end_sandboxes();
      source = start_program(seed * 1000 + static_cast<std::uint64_t>(i));
      ASSERT_NE(source, nullptr);
    }
    ::poll(nullptr, 0, static_cast<int>(random() % 60));
    bool stopped = i % compare_every == compare_every - 1;
    if (stopped) signal_all(*source, SIGSTOP);
    fs::path checkpoint;
    auto info = take(full ? *full_engine_ : *engine_, *source, checkpoint);
    ASSERT_TRUE(info) << info.error().message() << "\n" << state_of(*source);
    EXPECT_THAT(info->memory, StartsWith(full ? "full" : "tracked"));
    if (stopped) {
      compare(*source, checkpoint);
      signal_all(*source, SIGCONT);
      ++compared;
    }
    auto target = restore(checkpoint);
    EXPECT_TRUE(target) << target.error().message() << "\n" << log_tail_;
    if (target && stopped) signal_all(**target, SIGCONT);
    // At times the program goes on where it was restored: the next checkpoints are of that.
    if (target && random() % 8 == 0) {
      ASSERT_TRUE(source->kill());
      source = *target;
      ++moved;
    } else if (target) {
      check_out(**target);
    }
    if (target && !HasFailure()) ++restored_count;
    if (HasFailure()) {
      keep_evidence(fmt::format("{}-{}", seed, i), checkpoint);
      break;
    }
    ASSERT_TRUE(sys::remove_tree(checkpoint));
  }
  if (!HasFailure()) check_out(*source);
  std::printf(
      "%d of %d checkpoints restored and checked out (%d of them by running on and being "
      "checkpointed again); %d compared with a full dump, %llu pages; %d attempts repeated\n",
      restored_count, count, moved, compared, static_cast<unsigned long long>(pages_compared_),
      repeated_);
}

}  // namespace
}  // namespace baton::agent
