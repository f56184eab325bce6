// A controller that can't save its state: it refuses or holds back, and keeps the leases.
#include <sched.h>
#include <spawn.h>
#include <sys/mount.h>
#include <sys/wait.h>

#include <fstream>

#include "unit/control_fixture.h"

namespace baton::control {
namespace {

using fakes::FakeAgent;
using fakes::running;

// Whether there are faults at all is read once, at the first fault point.
[[maybe_unused]] const int kFaultsEnabled = ::setenv("BATON_FAULTS", "none=error", 1);

class UnsavedTest : public ControllerTest {
 protected:
  void SetUp() override {
    arm("");
    ::setenv("BATON_FAULTS_FILE", (faults_.path() / "faults").c_str(), 1);
    ControllerTest::SetUp();
  }
  void TearDown() override { ::unsetenv("BATON_FAULTS_FILE"); }
  void arm(const std::string& faults) {
    auto next = faults_.path() / "faults.next";
    std::ofstream(next) << faults;
    std::filesystem::rename(next, faults_.path() / "faults");
  }
  fakes::TempDir faults_;
};

TEST_F(UnsavedTest, NoOrderLeavesBeforeItIsSavedAndLeasesGoOn) {
  FakeAgent one(address_, "node-1");
  ASSERT_OK(one.enroll());
  one.attach();
  arm("control.save=errors");
  auto refused = run(spec("loop"));
  ASSERT_FALSE(refused);
  EXPECT_TRUE(one.heartbeat()->renewed());
  EXPECT_EQ(one.waiting_orders(), 0u);
  EXPECT_EQ(events("disk-full").size(), 1u);
  arm("");
  auto order = one.next_order();
  ASSERT_TRUE(order.has_start()) << order.ShortDebugString();
  EXPECT_EQ(events("disk-ok").size(), 1u);
}

TEST_F(UnsavedTest, ACheckpointThatCantBeRecordedIsNotAcknowledged) {
  FakeAgent one(address_, "node-1");
  ASSERT_OK(one.enroll());
  one.attach();
  auto id = run_on(one, spec("loop"));
  ASSERT_OK(one.upload(id, 1, 0, {{"f", "1"}}));
  arm("ship.before_commit=errors");
  EXPECT_FALSE(one.upload(id, 1, 0, {{"f", "2"}}));
  arm("control.save=errors");
  EXPECT_FALSE(one.upload(id, 1, 0, {{"f", "3"}}));
  arm("store.write=errors");
  EXPECT_FALSE(one.upload(id, 1, 0, {{"f", "4"}}));
  arm("");
  ASSERT_OK(one.upload(id, 1, 0, {{"f", "5"}}));
  restart();
  EXPECT_EQ(job("loop").state(), v1::JOB_RUNNING);
  EXPECT_TRUE(std::filesystem::is_empty(directory_.path() / "checkpoints/.incoming"));
}

constexpr const char* kInside = "BATON_TEST_ON_A_SMALL_DISK";

// The rest runs in a process of its own, with its own mount namespace and a disk of 8 MiB: this
// one's threads could not be taken along.
class FullDisk : public ControllerTest {
 protected:
  void SetUp() override {
    if (!::getenv(kInside)) return;
    ASSERT_EQ(::unshare(CLONE_NEWNS), 0);
    ASSERT_EQ(::mount("", "/", nullptr, MS_REC | MS_PRIVATE, nullptr), 0);
    ASSERT_EQ(::mount("tmpfs", directory_.path().c_str(), "tmpfs", 0, "size=8m"), 0);
    ControllerTest::SetUp();
  }
  void TearDown() override {
    controller_.reset();
    if (::getenv(kInside)) ::umount2(directory_.path().c_str(), MNT_DETACH);
  }
  // Someone else fills the disk to the last byte.
  void fill() {
    std::ofstream file(filler());
    std::string block(4096, 'x');
    while (file.write(block.data(), static_cast<std::streamsize>(block.size())).flush()) {
    }
  }
  std::filesystem::path filler() const { return directory_.path() / "filler"; }
};

// Exit status of this same test in a fresh process.
int run_inside() {
  const auto* info = testing::UnitTest::GetInstance()->current_test_info();
  std::string filter = fmt::format("--gtest_filter={}.{}", info->test_suite_name(), info->name());
  std::string program = "/proc/self/exe";
  char* arguments[] = {program.data(), filter.data(), nullptr};
  std::vector<char*> environment;
  for (char** entry = environ; *entry; ++entry) environment.push_back(*entry);
  std::string inside = fmt::format("{}=1", kInside);
  environment.push_back(inside.data());
  environment.push_back(nullptr);
  pid_t child = 0;
  if (::posix_spawn(&child, program.c_str(), nullptr, nullptr, arguments, environment.data()) != 0)
    return -1;
  int status = 0;
  return ::waitpid(child, &status, 0) == child ? status : -1;
}

TEST_F(FullDisk, RefusesWishesKeepsLeasesAndRecoversByItself) {
  if (::geteuid() != 0) GTEST_SKIP() << "mounting a small disk needs root";
  if (!::getenv(kInside)) {
    EXPECT_EQ(run_inside(), 0);
    return;
  }
  FakeAgent one(address_, "node-1");
  ASSERT_OK(one.enroll());
  one.attach();
  auto id = run_on(one, spec("first"));
  ASSERT_OK(one.upload(id, 1, 0, {{"f", "1"}}));
  auto full = one.upload(id, 1, 0, {{"f", std::string(12 << 20, 'x')}});
  ASSERT_FALSE(full);
  EXPECT_EQ(full.error().code(), ErrorCode::NoSpace) << full.error().message();
  EXPECT_EQ(job("first").newest_checkpoint(), 1u);
  fill();
  auto refused = run(spec("second"));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), ErrorCode::NoSpace) << refused.error().message();
  EXPECT_TRUE(one.heartbeat({running(id, 1)})->renewed());
  // What has happened can still be written down.
  ASSERT_OK(one.report_exit(id, 1, 0, 0));
  EXPECT_EQ(job("first").state(), v1::JOB_EXITED);
  std::filesystem::remove(filler());
  ASSERT_OK(run(spec("third")));
}

}  // namespace
}  // namespace baton::control
