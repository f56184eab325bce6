// What the engine does when something goes wrong.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <poll.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <fstream>
#include <random>
#include <sstream>
#include <thread>

#include "agent_engine_fixture.h"
#include "base/clock.h"
#include "sys/file.h"
#include "sys/process_attributes.h"

namespace baton::agent {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class EngineFaults : public EngineTest {};

TEST_F(EngineFaults, PreflightProvesARestoreWithoutLettingItRun) {
  Sandbox* sandbox = start_workload("files");
  ASSERT_NE(sandbox, nullptr);
  auto checkpoint = next_checkpoint();
  auto info = engine_->checkpoint(*sandbox, checkpoint);
  ASSERT_TRUE(info) << info.error().message();
  auto proven = restore(checkpoint, {.leave_stopped_then_kill = true});
  ASSERT_TRUE(proven) << proven.error().message();
  EXPECT_EQ(await_end(**proven).kind, SandboxExit::Kind::Killed);
  EXPECT_EQ(output(**proven).size(), info->output_bytes) << "it printed something";
  await_lines(*sandbox, 3, info->output_bytes);
  expect_whole(*sandbox, "");
}

TEST_F(EngineFaults, HeldJobStandsStillThenResumes) {
  Sandbox* sandbox = start_workload("threads");
  ASSERT_NE(sandbox, nullptr);
  auto checkpoint = next_checkpoint();
  bool asked = false;
  auto info = engine_->checkpoint_and_hold(*sandbox, checkpoint, [&](const HeldCheckpoint& h) {
    const CheckpointInfo& held = h.info;
    asked = true;
    EXPECT_TRUE(fs::exists(checkpoint / "checkpoint.json"));
    EXPECT_TRUE(fs::exists(checkpoint / "images" / "inventory.img"));
    EXPECT_EQ(output(*sandbox).size(), held.output_bytes);
    ::poll(nullptr, 0, 50);
    EXPECT_EQ(output(*sandbox).size(), held.output_bytes) << "it runs although it is held";
    return HoldVerdict::Resume;
  });
  ASSERT_TRUE(info) << info.error().message();
  EXPECT_TRUE(asked);
  await_lines(*sandbox, 3, info->output_bytes);
  expect_whole(*sandbox, "");
}

TEST_F(EngineFaults, HeldJobIsKilledWhenItRunsElsewhere) {
  Sandbox* sandbox = start_workload("pipes");
  ASSERT_NE(sandbox, nullptr);
  auto checkpoint = next_checkpoint();
  Sandbox* target = nullptr;
  auto info = engine_->checkpoint_and_hold(*sandbox, checkpoint, [&](const HeldCheckpoint&) {
    auto restored = restore(checkpoint);
    EXPECT_TRUE(restored) << restored.error().message() << log_tail_;
    if (restored) target = *restored;
    return HoldVerdict::Kill;
  });
  ASSERT_TRUE(info) << info.error().message();
  ASSERT_NE(target, nullptr);
  EXPECT_EQ(await_end(*sandbox).kind, SandboxExit::Kind::Killed);
  EXPECT_EQ(output(*sandbox).size(), info->output_bytes) << "it ran on after it had been moved";
  await_lines(*target, 10, info->output_bytes);
  expect_whole(*target, output(*sandbox));
}

TEST_F(EngineFaults, RefusedProgramRunsOnAndTheCureIsNamed) {
  struct Case {
    const char* kind;
    const char* says;
  };
  for (auto [kind, says] : {Case{"io_uring", "io_uring"}, Case{"mqueue", "POSIX message queue"},
                            Case{"userfaultfd", "userfaultfd"}}) {
    SCOPED_TRACE(kind);
    Sandbox* sandbox = start_command({program_directory() / "refused", kind});
    ASSERT_NE(sandbox, nullptr);
    await_lines(*sandbox, 2);
    auto checkpoint = next_checkpoint();
    auto info = engine_->checkpoint(*sandbox, checkpoint);
    ASSERT_FALSE(info);
    EXPECT_EQ(info.error().code(), ErrorCode::Refused) << info.error().message();
    EXPECT_THAT(info.error().message(), HasSubstr(says));
    EXPECT_FALSE(fs::exists(checkpoint));
    EXPECT_TRUE(fs::exists(sandbox->spec().directory / "criu-dump.log"));
    await_lines(*sandbox, 3, output(*sandbox).size());
  }
}

// A filesystem with room for next to nothing.
class SmallDisk {
 public:
  explicit SmallDisk(fs::path place) : place_(std::move(place)) {
    fs::create_directories(place_);
    mounted_ = ::mount("none", place_.c_str(), "tmpfs", 0, "size=256k") == 0;
  }
  ~SmallDisk() {
    if (!mounted_) return;
    EXPECT_EQ(::umount2(place_.c_str(), MNT_DETACH), 0);
  }
  bool mounted() const { return mounted_; }

 private:
  fs::path place_;
  bool mounted_;
};

TEST_F(EngineFaults, FullDiskFailsTheCheckpointAndNotTheJob) {
  auto statework = (program_directory() / "statework").string();
  Sandbox* sandbox = start_command(
      {"sh", "-c", "head -c 1000000 /dev/urandom >/tmp/big; exec " + statework + " counter"});
  ASSERT_NE(sandbox, nullptr);
  await_lines(*sandbox, 5);
  SmallDisk disk(directory_ / "disk");
  ASSERT_TRUE(disk.mounted());
  auto info = engine_->checkpoint(*sandbox, directory_ / "disk" / "checkpoint");
  ASSERT_FALSE(info);
  EXPECT_EQ(info.error().code(), ErrorCode::NoSpace) << info.error().message();
  EXPECT_FALSE(fs::exists(directory_ / "disk" / "checkpoint"));
  await_lines(*sandbox, 3, output(*sandbox).size());
  expect_whole(*sandbox, "");
}

TEST_F(EngineFaults, DamagedCheckpointsAreToldApart) {
  Sandbox* sandbox = start_workload("counter");
  ASSERT_NE(sandbox, nullptr);
  auto checkpoint = next_checkpoint();
  ASSERT_TRUE(engine_->checkpoint(*sandbox, checkpoint));
  ASSERT_TRUE(sandbox->kill());
  for (const char* victim :
       {"images/pstree.img", "images/files.img", "tree-0.tar", "checkpoint.json"}) {
    SCOPED_TRACE(victim);
    fs::path path = checkpoint / victim;
    auto whole = sys::read_file(path);
    ASSERT_TRUE(whole);
    fs::path aside = path.string() + ".aside";
    fs::rename(path, aside);
    std::ofstream(path) << whole->substr(0, whole->size() / 2);
    auto restored = restore(checkpoint);
    EXPECT_FALSE(restored);
    if (!restored) {
      EXPECT_EQ(restored.error().code(), ErrorCode::Damaged) << restored.error().message();
    }
    fs::rename(aside, path);
  }
}

// CRIU is killed at random moments; each time the job either runs on, whole, or is reported as not
// to be trusted any more.
TEST_F(EngineFaults, CriuKilledInTheMiddleOfADump) {
  std::mt19937 random(20240607);
  int unharmed = 0;
  int damaged = 0;
  for (int round = 0; round < 6; ++round) {
    Sandbox* sandbox = start_workload(round % 2 ? "threads" : "shm");
    ASSERT_NE(sandbox, nullptr);
    auto killer = [&](int delay_us) {
      std::thread([delay_us, directory = sandbox->spec().directory, init = sandbox->init_pid()] {
        // Pid 1's children are the root and CRIU; CRIU is the one that runs from the prefix.
        const std::int64_t deadline_ms = boot_time_ms() + 2000;
        while (boot_time_ms() < deadline_ms) {
          auto children = sys::read_file(fmt::format("/proc/{}/task/{}/children", init, init));
          std::istringstream list(children ? *children : "");
          for (pid_t child; list >> child;) {
            auto name = sys::read_file(fmt::format("/proc/{}/cmdline", child));
            if (!name || name->find("criu") == std::string::npos) continue;
            if (!fs::exists(directory / "images" / "dump.log")) continue;
            ::usleep(static_cast<useconds_t>(delay_us));
            ::kill(child, SIGKILL);
            return;
          }
        }
      }).detach();
    };
    killer(std::uniform_int_distribution<int>(0, 60'000)(random));
    auto info = engine_->checkpoint(*sandbox, next_checkpoint());
    if (!info && info.error().code() == ErrorCode::Damaged) {
      ++damaged;
      continue;
    }
    ++unharmed;
    await_lines(*sandbox, 5, output(*sandbox).size());
    // And it can still be moved, whatever was left in its memory.
    auto checkpoint = next_checkpoint();
    auto again = engine_->checkpoint(*sandbox, checkpoint);
    ASSERT_TRUE(again) << again.error().message();
    ASSERT_TRUE(sandbox->kill());
    auto restored = restore(checkpoint);
    ASSERT_TRUE(restored) << restored.error().message() << log_tail_;
    await_lines(**restored, 5, again->output_bytes);
    expect_whole(**restored, output(*sandbox).substr(0, again->output_bytes));
  }
  std::printf("killed %d times: unharmed %d, reported as damaged %d\n", unharmed + damaged,
              unharmed, damaged);
}

}  // namespace
}  // namespace baton::agent
