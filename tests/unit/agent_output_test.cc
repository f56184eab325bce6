// Output goes to the controller once and whole, whatever happens on the way.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "agent/health.h"
#include "agent/node_facts.h"
#include "agent/output_shipper.h"
#include "fakes/agent_fakes.h"

namespace baton::agent {
namespace {

namespace fs = std::filesystem;
using fakes::FakeLink;

class OutputTest : public testing::Test {
 protected:
  OutputTest() {
    char name[] = "/tmp/baton-output-XXXXXX";
    root_ = ::mkdtemp(name);
    print("");
  }
  ~OutputTest() override { fs::remove_all(root_); }

  void print(std::string_view text) {
    std::ofstream(file(), std::ios::app | std::ios::binary) << text;
  }
  fs::path file() const { return root_ / "output"; }
  std::unique_ptr<OutputShipper> make() {
    auto shipper = std::make_unique<OutputShipper>(link_, JobId(1), Generation(1), file());
    EXPECT_TRUE(shipper->start());
    return shipper;
  }
  bool arrived(const std::string& expected) {
    return link_.wait_until([&](FakeLink& link) { return link.output_ == expected; });
  }

  fs::path root_;
  FakeLink link_;
};

TEST_F(OutputTest, ShipsWhatIsThereAndWhatComes) {
  print("one\n");
  auto shipper = make();
  EXPECT_TRUE(arrived("one\n"));
  print("two\n");
  EXPECT_TRUE(arrived("one\ntwo\n"));
}

TEST_F(OutputTest, BeginsWhereTheControllerSays) {
  print("0123456789");
  link_.output_ = "0123";
  auto shipper = make();
  EXPECT_TRUE(arrived("0123456789"));
}

TEST_F(OutputTest, ShipsAgainWhatTheControllerLost) {
  print("0123456789");
  auto shipper = make();
  EXPECT_TRUE(arrived("0123456789"));
  // It came back with less, as after a power cut: it answers with what it wants next.
  std::atomic<bool> cut = true;
  link_.on_call = [&](std::string_view) -> Status {
    if (cut.exchange(false)) link_.output_.resize(3);
    return {};
  };
  print("ab");
  EXPECT_TRUE(arrived("0123456789ab"));
}

TEST_F(OutputTest, WaitsWhileTheControllerIsAway) {
  std::atomic<bool> away = true;
  link_.on_call = [&](std::string_view) -> Status {
    if (away) return fail(ErrorCode::Unavailable, "away");
    return {};
  };
  auto shipper = make();
  print("kept");
  CancelToken never;
  EXPECT_EQ(shipper->flush_to(4, never, std::chrono::milliseconds(200)).error().code(),
            ErrorCode::TimedOut);
  away = false;
  EXPECT_TRUE(shipper->flush_to(4, never));
  EXPECT_TRUE(arrived("kept"));
}

TEST_F(OutputTest, StaleGenerationEndsIt) {
  link_.on_call = [](std::string_view) -> Status {
    return fail(ErrorCode::StaleGeneration, "generation 2 writes now");
  };
  auto shipper = make();
  print("too late");
  CancelToken never;
  EXPECT_EQ(shipper->flush_all(never).error().code(), ErrorCode::StaleGeneration);
}

TEST_F(OutputTest, FlushCanBeCancelled) {
  link_.on_call = [](std::string_view) { return Status(fail(ErrorCode::Unavailable, "away")); };
  auto shipper = make();
  print("x");
  CancelToken cancelled;
  cancelled.cancel();
  EXPECT_EQ(shipper->flush_all(cancelled).error().code(), ErrorCode::Cancelled);
}

TEST_F(OutputTest, ManyLinesGoTogether) {
  auto shipper = make();
  std::string all;
  for (int i = 0; i < 20'000; ++i) {
    print(std::to_string(i) + "\n");
    all += std::to_string(i) + "\n";
  }
  EXPECT_TRUE(arrived(all));
  EXPECT_LT(link_.output_calls_, 2'000);
}

TEST_F(OutputTest, WhatACheckpointCoversIsReleasedButTheLengthStays) {
  const std::string big(8 << 20, 'x');
  print(big);
  auto shipper = make();
  EXPECT_TRUE(arrived(big));
  struct stat before {};
  ::stat(file().c_str(), &before);
  shipper->set_safe(big.size());
  struct stat after {};
  for (int i = 0; i < 1'000; ++i) {
    ::stat(file().c_str(), &after);
    if (after.st_blocks < before.st_blocks) break;
    ::usleep(5'000);
  }
  EXPECT_LT(after.st_blocks, before.st_blocks / 2);
  EXPECT_EQ(after.st_size, before.st_size);
  print("more");
  EXPECT_TRUE(arrived(big + "more"));
}

TEST(Health, EnoughFailuresInARowAndOneSuccessTakesThemBack) {
  HealthVerdict verdict(3);
  verdict.failed("a");
  verdict.failed("b");
  EXPECT_FALSE(verdict.about_to_fail());
  verdict.succeeded();
  verdict.failed("c");
  verdict.failed("d");
  EXPECT_FALSE(verdict.about_to_fail());
  verdict.failed("e");
  EXPECT_EQ(verdict.about_to_fail(), "e");
  verdict.succeeded();
  EXPECT_FALSE(verdict.about_to_fail());
}

TEST(Health, CommandSaysWhy) {
  using std::chrono::milliseconds;
  EXPECT_TRUE(run_health_command("exit 0", milliseconds(10'000)));
  const auto failed = run_health_command("echo disk sda is failing; exit 2", milliseconds(10'000));
  ASSERT_FALSE(failed);
  EXPECT_EQ(failed.error().message(), "exit code 2: disk sda is failing");
}

TEST(Health, CommandThatHangsIsEndedWithAllItStarted) {
  const std::string witness = testing::TempDir() + "/health-witness";
  fs::remove(witness);
  const auto failed = run_health_command(fmt::format("(sleep 2; touch {}) & sleep 60", witness),
                                         std::chrono::milliseconds(200));
  ASSERT_FALSE(failed);
  EXPECT_EQ(failed.error().code(), ErrorCode::TimedOut);
  ::usleep(2'500'000);
  EXPECT_FALSE(fs::exists(witness)) << "its child lived on";
}

TEST(Health, MonitorNoticesRecoveryAndForgetsChecksThatAreGone) {
  const std::string flag = testing::TempDir() + "/health-flag";
  std::ofstream(flag) << "bad";
  HealthMonitor monitor;
  const HealthCheck check{fmt::format("! test -e {}", flag), std::chrono::milliseconds(30), 2};
  auto reaches = [&](bool wanted) {
    for (int i = 0; i < 1'000; ++i) {
      if (monitor.about_to_fail().has_value() == wanted) return true;
      ::usleep(10'000);
    }
    return false;
  };
  monitor.set_checks({check});
  EXPECT_TRUE(reaches(true));
  fs::remove(flag);
  EXPECT_TRUE(reaches(false));
  std::ofstream(flag) << "bad";
  EXPECT_TRUE(reaches(true));
  monitor.set_checks({});
  EXPECT_FALSE(monitor.about_to_fail());
}

TEST(NodeFacts, CpuFeatures) {
  EXPECT_EQ(parse_cpu_features("\nprocessor\t: 0\nflags\t\t: sse fpu avx\nbugs\t: x\n"),
            (std::vector<std::string>{"avx", "fpu", "sse"}));
  EXPECT_EQ(parse_cpu_features("\nFeatures\t: asimd aes\n"),
            (std::vector<std::string>{"aes", "asimd"}));
}

}  // namespace
}  // namespace baton::agent
