// Large private files in checkpoints: copied before the freeze, not at all when they did not
// change, and right in every case.
#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <random>
#include <thread>

#include "agent/engine/private_tree.h"
#include "agent_engine_fixture.h"
#include "base/clock.h"
#include "sys/file.h"

namespace baton::agent {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

constexpr std::uint64_t mib = 1 << 20;
// Whether there are fault points is decided at the first one that is passed.
const int faults_enabled = ::setenv("BATON_FAULTS", "", 0);

class PrivateFilesTest : public EngineTest {
 protected:
  void SetUp() override {
    EngineTest::SetUp();
    ASSERT_EQ(faults_enabled, 0);
  }
  void TearDown() override {
    ::setenv("BATON_FAULTS", "", 1);
    EngineTest::TearDown();
  }

  // A shell that obeys: what is written to its fifo is executed.
  Sandbox* start_shell(const std::string& first) {
    Sandbox* sandbox = start_command(
        {"sh", "-c",
         "mkfifo /tmp/orders; exec 3<>/tmp/orders; " + first +
             "; echo done; while read -r order <&3; do eval \"$order\"; echo done; done"});
    if (sandbox) await_lines(*sandbox, ++orders_);
    return sandbox;
  }
  void tell(Sandbox& sandbox, const std::string& order) {
    std::ofstream(inside(sandbox) / "tmp/orders") << order << std::endl;
    await_lines(sandbox, ++orders_);
  }
  static fs::path upper(const Sandbox& sandbox) { return sandbox.private_trees().front().second; }

  static fs::path inside(const Sandbox& sandbox) {
    return fmt::format("/proc/{}/root", sandbox.init_pid());
  }

  Result<CheckpointInfo> take(Sandbox& sandbox) {
    checkpoint_ = next_checkpoint();
    return engine_->checkpoint(sandbox, checkpoint_);
  }
  // A file that was written just now is left to the freeze.
  static void settle() { ::usleep(60'000); }

  int orders_ = 0;
  fs::path checkpoint_;
};

#define TAKE(info, sandbox)  \
  auto info = take(sandbox); \
  ASSERT_TRUE(info) << info.error().message()

TEST_F(PrivateFilesTest, UnchangedFileCostsNothing) {
  Sandbox* sandbox = start_shell("head -c 20M /dev/urandom >/tmp/big");
  ASSERT_NE(sandbox, nullptr);
  settle();
  TAKE(first, *sandbox);
  EXPECT_EQ(first->steps.precopied_file_bytes, 20 * mib);
  EXPECT_EQ(first->steps.frozen_file_bytes, 0u);
  EXPECT_EQ(first->new_file_bytes, 20 * mib);
  TAKE(second, *sandbox);
  EXPECT_EQ(second->steps.precopied_file_bytes, 0u);
  EXPECT_EQ(second->steps.frozen_file_bytes, 0u);
  EXPECT_EQ(second->steps.unread_file_bytes, 20 * mib);
  EXPECT_EQ(second->new_file_bytes, 0u);
  EXPECT_GT(second->size_bytes, 20 * mib);
  EXPECT_LT(fs::file_size(checkpoint_ / "tree-0.tar"), 1 * mib);
  auto before = sys::read_file(upper(*sandbox) / "tmp/big");
  ASSERT_TRUE(before);
  // One changed block is one changed chunk, and what the file had before is not lost elsewhere.
  // The file is random: what is written must not be there already.
  const char other = (*before)[9000000] == 'x' ? 'y' : 'x';
  tell(*sandbox,
       fmt::format("printf {} | dd of=/tmp/big bs=1 seek=9000000 conv=notrunc 2>/dev/null", other));
  settle();
  TAKE(third, *sandbox);
  EXPECT_EQ(third->steps.precopied_file_bytes, 20 * mib);
  EXPECT_EQ(third->new_file_bytes, 4 * mib);
  ASSERT_TRUE(sandbox->kill());
  auto restored = restore(checkpoint_);
  ASSERT_TRUE(restored) << restored.error().message() << log_tail_;
  (*before)[9000000] = other;
  auto after = sys::read_file(upper(**restored) / "tmp/big");
  ASSERT_TRUE(after);
  EXPECT_TRUE(*before == *after);
  // Of what was restored, nothing is stored again; and the job's writes don't reach the checkpoint.
  TAKE(again, **restored);
  EXPECT_EQ(again->new_file_bytes, 0u);
  std::ofstream(inside(**restored) / "tmp/orders")
      << "head -c 20M /dev/zero >/tmp/big" << std::endl;
  await_lines(**restored, 1, third->output_bytes);
  EXPECT_TRUE(restore(checkpoint_));
}

TEST_F(PrivateFilesTest, FileKeptOpenForWritingCostsNothing) {
  for (const char* place : {"/tmp/file", "/dev/shm/file"}) {
    SCOPED_TRACE(place);
    Sandbox* sandbox = start_command({program_directory() / "filework", "idle", place, "8"});
    ASSERT_NE(sandbox, nullptr);
    await_lines(*sandbox, 5);
    settle();
    TAKE(first, *sandbox);
    TAKE(second, *sandbox);
    TAKE(third, *sandbox);
    // A store through a mapping of a tmpfs leaves no trace, and who may write may map.
    const bool on_tmpfs = std::string(place).starts_with("/dev/shm");
    EXPECT_EQ(third->steps.frozen_file_bytes, on_tmpfs ? 8 * mib : 0);
    EXPECT_EQ(third->new_file_bytes, 0u);
    ASSERT_TRUE(sandbox->kill());
    auto restored = restore(checkpoint_);
    ASSERT_TRUE(restored) << restored.error().message() << log_tail_;
    await_lines(**restored, 5, third->output_bytes);
    expect_whole(**restored, output(*sandbox).substr(0, third->output_bytes));
  }
}

TEST_F(PrivateFilesTest, ClosedFileInSharedMemoryCostsNothing) {
  Sandbox* sandbox = start_shell("head -c 8M /dev/urandom >/dev/shm/big");
  ASSERT_NE(sandbox, nullptr);
  settle();
  TAKE(first, *sandbox);
  EXPECT_EQ(first->steps.frozen_file_bytes, 0u);
  TAKE(second, *sandbox);
  EXPECT_EQ(second->steps.unread_file_bytes, 8 * mib);
  tell(*sandbox, "head -c 8M /dev/urandom >/dev/shm/big");
  settle();
  TAKE(third, *sandbox);
  EXPECT_EQ(third->steps.unread_file_bytes, 0u);
  EXPECT_EQ(third->new_file_bytes, 8 * mib);
}

// Between the copy and the freeze.
TEST_F(PrivateFilesTest, ChangeAfterTheCopyIsSeen) {
  struct Case {
    const char* change;
    const char* expected;
  };
  const std::string a(mib, 'a'), b(mib, 'b');
  for (auto [change, expected] :
       {Case{"printf bbb | dd of=/tmp/big conv=notrunc bs=1M 2>/dev/null", "bbba"},
        Case{"cp /tmp/other /tmp/big", "bbbb"}, Case{"mv /tmp/other /tmp/big", "bbbb"},
        Case{"ln -f /tmp/other /tmp/big", "bbbb"}, Case{"rm /tmp/big", nullptr},
        Case{"cp -p /tmp/other /tmp/x; touch -r /tmp/big /tmp/x; mv /tmp/x /tmp/big", "bbbb"}}) {
    SCOPED_TRACE(change);
    orders_ = 0;
    Sandbox* sandbox = start_shell(
        "printf '%1048576s' | tr ' ' a >/tmp/big; printf '%1048576s' | "
        "tr ' ' b >/tmp/other");
    ASSERT_NE(sandbox, nullptr);
    settle();
    // Made when the files have been copied.
    ::setenv("BATON_FAULTS", "track.before_dump=delay:2000", 1);
    std::jthread changer([&] {
      const fs::path copies = sandbox->spec().directory / "files";
      auto copied = [&] {
        std::error_code error;
        return std::distance(fs::directory_iterator(copies, error), {}) >= 2;
      };
      for (const auto end_ms = boot_time_ms() + 2000; !copied() && boot_time_ms() < end_ms;)
        ::usleep(1000);
      tell(*sandbox, change);
    });
    TAKE(info, *sandbox);
    changer.join();
    ::setenv("BATON_FAULTS", "", 1);
    EXPECT_EQ(info->steps.precopied_file_bytes, 2 * mib);
    ASSERT_TRUE(sandbox->kill());
    auto restored = restore(checkpoint_);
    ASSERT_TRUE(restored) << restored.error().message() << log_tail_;
    auto content = sys::read_file(upper(**restored) / "tmp/big");
    if (!expected) {
      EXPECT_FALSE(content);
      continue;
    }
    ASSERT_TRUE(content);
    EXPECT_EQ(content->size(), mib);
    EXPECT_EQ(content->substr(0, 4), expected);
  }
}

// Programs that check their file all the time, checkpointed at any instant. Those that pause are
// often between two writes when their file is copied, and write before the freeze.
class Writer : public PrivateFilesTest, public testing::WithParamInterface<const char*> {
 protected:
  void check(const char* place, const char* pause_us) {
    SCOPED_TRACE(fmt::format("{} every {} us", place, pause_us));
    Sandbox* sandbox =
        start_command({program_directory() / "filework", GetParam(), place, "2", pause_us});
    ASSERT_NE(sandbox, nullptr);
    await_lines(*sandbox, 2);
    for (int i = 0; i < 4; ++i) {
      ::usleep(std::uniform_int_distribution<useconds_t>(0, 100'000)(random_));
      TAKE(info, *sandbox);
      precopied_bytes_ += info->steps.precopied_file_bytes;
      frozen_bytes_ += info->steps.frozen_file_bytes;
      auto restored = restore(checkpoint_);
      ASSERT_TRUE(restored) << restored.error().message() << log_tail_;
      await_lines(**restored, 2, info->output_bytes);
      if (i == 1) {  // on from here
        ASSERT_TRUE(sandbox->kill());
        sandbox = *restored;
        continue;
      }
      expect_it_ends_well(**restored);
    }
    expect_it_ends_well(*sandbox);
  }
  static void expect_it_ends_well(Sandbox& sandbox) {
    ASSERT_TRUE(sandbox.signal(SIGTERM));
    EXPECT_EQ(await_end(sandbox).code, 0)
        << output(sandbox).substr(std::min(output(sandbox).find("FAIL"), output(sandbox).size()));
  }

  std::mt19937 random_{1};
  std::uint64_t precopied_bytes_ = 0;
  std::uint64_t frozen_bytes_ = 0;
};

TEST_P(Writer, FindsItsFileAsItLeftIt) {
  check("/tmp/file", "500");
  check("/tmp/file", "100000");
  check("/dev/shm/file", "100000");
  std::printf("copied before the freezes %llu KiB, in them %llu KiB\n",
              static_cast<unsigned long long>(precopied_bytes_ >> 10),
              static_cast<unsigned long long>(frozen_bytes_ >> 10));
}

INSTANTIATE_TEST_SUITE_P(PrivateFiles, Writer,
                         testing::Values("rewrite", "mapped", "truncate", "replace", "links",
                                         "sparse"),
                         [](const auto& info) { return std::string(info.param); });

TEST_F(PrivateFilesTest, HolesAndHardLinksStay) {
  Sandbox* sandbox = start_shell(
      "truncate -s 1G /tmp/holes; printf x | dd of=/tmp/holes bs=1 seek=500000000 conv=notrunc "
      "2>/dev/null; head -c 1M /dev/urandom >/tmp/one; ln /tmp/one /tmp/two; chmod 4711 /tmp/one; "
      "chown 12:34 /tmp/one; touch -d 2001-02-03 /tmp/one");
  ASSERT_NE(sandbox, nullptr);
  settle();
  TAKE(info, *sandbox);
  EXPECT_LE(info->new_file_bytes, 5 * mib);
  ASSERT_TRUE(sandbox->kill());
  auto restored = restore(checkpoint_);
  ASSERT_TRUE(restored) << restored.error().message() << log_tail_;
  struct stat holes {
  }, one{}, two{}, before{};
  ASSERT_EQ(::stat((upper(**restored) / "tmp/holes").c_str(), &holes), 0);
  EXPECT_EQ(holes.st_size, 1 << 30);
  EXPECT_LT(holes.st_blocks * 512, 1 << 20);
  ASSERT_EQ(::stat((upper(**restored) / "tmp/one").c_str(), &one), 0);
  ASSERT_EQ(::stat((upper(**restored) / "tmp/two").c_str(), &two), 0);
  ASSERT_EQ(::stat((upper(*sandbox) / "tmp/one").c_str(), &before), 0);
  EXPECT_EQ(one.st_ino, two.st_ino);
  EXPECT_EQ(one.st_mode, before.st_mode);
  EXPECT_EQ(one.st_uid, 12u);
  EXPECT_EQ(one.st_mtim.tv_sec, before.st_mtim.tv_sec);
  EXPECT_EQ(*sys::read_file(upper(**restored) / "tmp/one"),
            *sys::read_file(upper(*sandbox) / "tmp/two"));
}

// While the job stands still and CRIU's last hook waits.
class ArchivedBesideCriu : public PrivateFilesTest {
 protected:
  Result<CheckpointInfo> take_with(Sandbox& sandbox, const std::function<void()>& work) {
    ::setenv("BATON_FAULTS", "dump.frozen=delay:1500", 1);
    const fs::path archives = directory_ / "checkpoint-0";
    std::jthread worker([&] {
      const std::int64_t deadline_ms = boot_time_ms() + 10'000;
      while (!fs::exists(archives / "tree-2.tar") && boot_time_ms() < deadline_ms) ::usleep(1000);
      ::usleep(100'000);
      work();
    });
    return take(sandbox);
  }
  timespec time_of_archive() const {
    struct stat info {};
    EXPECT_EQ(::stat((directory_ / "checkpoint-0" / "tree-0.tar").c_str(), &info), 0);
    return info.st_mtim;
  }
};

TEST_F(ArchivedBesideCriu, AndNotAgainWhereNothingChanged) {
  Sandbox* sandbox = start_shell("echo small >/tmp/small; head -c 1M /dev/urandom >/tmp/big");
  ASSERT_NE(sandbox, nullptr);
  timespec early{};
  auto info = take_with(*sandbox, [&] { early = time_of_archive(); });
  ASSERT_TRUE(info) << info.error().message();
  EXPECT_EQ(time_of_archive().tv_sec, early.tv_sec);
  EXPECT_EQ(time_of_archive().tv_nsec, early.tv_nsec);
  ASSERT_TRUE(sandbox->kill());
  auto restored = restore(checkpoint_);
  ASSERT_TRUE(restored) << restored.error().message() << log_tail_;
  for (const char* file : {"tmp/small", "tmp/big"})
    EXPECT_EQ(*sys::read_file(upper(**restored) / file), *sys::read_file(upper(*sandbox) / file));
}

TEST_F(ArchivedBesideCriu, AndNotAgainForAZombie) {
  Sandbox* sandbox = start_command({"sh", "-c", "true & echo ready; exec sleep 1000"});
  ASSERT_NE(sandbox, nullptr);
  await_lines(*sandbox, 1);
  settle();
  std::int64_t early_ns = 0;
  auto info = take_with(*sandbox, [&] {
    const timespec early = time_of_archive();
    early_ns = early.tv_sec * 1'000'000'000 + early.tv_nsec;
  });
  ASSERT_TRUE(info) << info.error().message();
  const timespec last = time_of_archive();
  EXPECT_EQ(last.tv_sec * 1'000'000'000 + last.tv_nsec, early_ns);
}

TEST_F(ArchivedBesideCriu, AndAgainWhereANameCameSince) {
  Sandbox* sandbox = start_shell("mkdir /tmp/folder; head -c 1M /dev/urandom >/tmp/big");
  ASSERT_NE(sandbox, nullptr);
  settle();
  auto info = take_with(*sandbox, [&] {
    fs::create_hard_link(upper(*sandbox) / "tmp/big", upper(*sandbox) / "tmp/folder/link");
  });
  ASSERT_TRUE(info) << info.error().message();
  EXPECT_EQ(info->new_file_bytes, mib);
  ASSERT_TRUE(sandbox->kill());
  auto restored = restore(checkpoint_);
  ASSERT_TRUE(restored) << restored.error().message() << log_tail_;
  EXPECT_EQ(fs::hard_link_count(upper(**restored) / "tmp/folder/link"), 2u);
  EXPECT_EQ(*sys::read_file(upper(**restored) / "tmp/folder/link"),
            *sys::read_file(upper(*sandbox) / "tmp/big"));
}

TEST(TreeFingerprint, ShowsWhatAnArchiveWouldShow) {
  std::string pattern = "/var/tmp/baton-tree-XXXXXX";
  ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
  const fs::path root = pattern;
  std::vector<PrivateTree> trees(1);
  trees.front().folder = root;
  std::ofstream(root / "file") << "a";
  fs::create_directory(root / "folder");
  auto last = fingerprint(trees);
  ASSERT_TRUE(last);
  auto expect_change = [&](const char* what, bool expected = true) {
    auto now = fingerprint(trees);
    ASSERT_TRUE(now);
    EXPECT_EQ(*now != *last, expected) << what;
    last = now;
  };
  expect_change("nothing", false);
  (void)sys::read_file(root / "file");
  expect_change("a look", false);
  std::ofstream(root / "file", std::ios::app) << "b";
  expect_change("its size");
  ::chmod((root / "file").c_str(), 0);
  expect_change("its mode");
  fs::create_hard_link(root / "file", root / "folder/link");
  expect_change("a link");
  fs::rename(root / "folder/link", root / "folder/other");
  expect_change("a name");
  std::ofstream(root / "folder/new");
  expect_change("a file");
  ::usleep(20'000);
  std::ofstream(root / "folder/new").flush();
  EXPECT_EQ(::utimensat(AT_FDCWD, (root / "folder/new").c_str(), nullptr, 0), 0);
  expect_change("its times");
  std::ofstream(root / "folder/left out");
  fs::remove(root / "folder/left out");
  last = fingerprint(trees, {root / "folder/new"});
  fs::remove(root / "file");
  std::ofstream(root / "folder/new") << "more";
  auto now = fingerprint(trees, {root / "folder/new"});
  EXPECT_NE(last, now);
  std::ofstream(root / "folder/new") << "even more";
  EXPECT_EQ(fingerprint(trees, {root / "folder/new"}), now);
  fs::remove_all(root);
  EXPECT_FALSE(fingerprint(trees));
}

// Neither before the freeze nor in it does a failure harm the job, or the next checkpoint.
TEST_F(PrivateFilesTest, FailuresLeaveTheJobRunning) {
  Sandbox* sandbox = start_shell("head -c 4M /dev/urandom >/tmp/big");
  ASSERT_NE(sandbox, nullptr);
  settle();
  ::setenv("BATON_FAULTS", "files.before_freeze=errors", 1);
  TAKE(in_the_freeze, *sandbox);
  EXPECT_EQ(in_the_freeze->steps.precopied_file_bytes, 0u);
  EXPECT_EQ(in_the_freeze->steps.frozen_file_bytes, 4 * mib);
  tell(*sandbox, "head -c 4M /dev/urandom >/tmp/big");
  ::setenv("BATON_FAULTS", "track.frozen=errors,dump.frozen=errors", 1);
  EXPECT_FALSE(take(*sandbox));
  ::setenv("BATON_FAULTS", "files.archive=errors", 1);
  EXPECT_FALSE(take(*sandbox));
  ::setenv("BATON_FAULTS", "", 1);
  tell(*sandbox, "head -c 4M /dev/urandom >/tmp/big");
  // Once only: then the archive that was to be made beside CRIU is made in the freeze.
  ::setenv("BATON_FAULTS", "files.archive=error", 1);
  TAKE(info, *sandbox);
  auto restored = restore(checkpoint_);
  ASSERT_TRUE(restored) << restored.error().message() << log_tail_;
  EXPECT_EQ(*sys::read_file(upper(**restored) / "tmp/big"),
            *sys::read_file(upper(*sandbox) / "tmp/big"));
}

TEST_F(PrivateFilesTest, FullDiskFailsTheCheckpointAndLeavesTheRoomToTheJob) {
  Sandbox* sandbox = start_shell("head -c 1M /dev/urandom >/tmp/first");
  ASSERT_NE(sandbox, nullptr);
  TAKE(first, *sandbox);
  tell(*sandbox, "head -c 8M /dev/urandom >/tmp/big");
  settle();
  const fs::path copies = sandbox->spec().directory / "files";
  ASSERT_EQ(::mount("none", copies.c_str(), "tmpfs", 0, "size=5m"), 0);
  auto info = take(*sandbox);
  EXPECT_TRUE(fs::is_empty(copies));
  EXPECT_EQ(::umount2(copies.c_str(), MNT_DETACH), 0);
  ASSERT_FALSE(info);
  EXPECT_EQ(info.error().code(), ErrorCode::NoSpace) << info.error().message();
  EXPECT_FALSE(fs::exists(checkpoint_));
  tell(*sandbox, "true");
  TAKE(again, *sandbox);
  EXPECT_EQ(again->new_file_bytes, 8 * mib);
}

TEST_F(PrivateFilesTest, DamagedChunkIsNotRestored) {
  Sandbox* sandbox = start_shell("head -c 4M /dev/urandom >/tmp/big");
  ASSERT_NE(sandbox, nullptr);
  TAKE(info, *sandbox);
  ASSERT_TRUE(sandbox->kill());
  const fs::path chunk = fs::directory_iterator(checkpoint_ / "files")->path();
  auto content = sys::read_file(chunk);
  ASSERT_TRUE(content);
  (*content)[1234567] ^= 1;
  fs::remove(chunk);
  std::ofstream(chunk) << *content;
  auto restored = restore(checkpoint_);
  ASSERT_FALSE(restored);
  EXPECT_EQ(restored.error().code(), ErrorCode::Damaged);
  EXPECT_THAT(restored.error().message(), HasSubstr("tmp/big"));
}

}  // namespace
}  // namespace baton::agent
