// Metrics from fixture folders: version 1, version 2, containers, and no control groups at all.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "sys/node_metrics.h"

namespace baton::sys {
namespace {

namespace fs = std::filesystem;
constexpr std::int64_t kSecond = 1'000'000'000;

class NodeMetricsTest : public testing::Test {
 protected:
  NodeMetricsTest() {
    char name[] = "/tmp/baton-metrics-XXXXXX";
    root_ = ::mkdtemp(name);
    put("proc/meminfo", "MemTotal:  8388608 kB\nMemFree: 1 kB\nMemAvailable:  6291456 kB\n");
    put("proc/loadavg", "1.50 1.00 0.50 1/100 1234\n");
    put("proc/self/cgroup", "0::/\n");
    put("proc/self/mountinfo", "");
    machine(100, 100);
  }
  ~NodeMetricsTest() override { fs::remove_all(root_); }

  void put(const std::string& path, const std::string& content) {
    fs::create_directories((root_ / path).parent_path());
    std::ofstream(root_ / path) << content;
  }
  void machine(long busy, long idle) {
    put("proc/stat", fmt::format("cpu  {} 0 0 {} 0 0 0 0 0 0\ncpu0 1 1 1 1\n", busy, idle));
  }
  NodeMetricsReader reader(std::string node_cgroup = "") {
    return NodeMetricsReader({.root = root_, .data = "/", .node_cgroup = std::move(node_cgroup)});
  }
  void mount_v2(const std::string& mount_root = "/") {
    put("proc/self/mountinfo",
        fmt::format("30 20 0:26 {} /sys/fs/cgroup ro - cgroup2 cgroup rw\n", mount_root));
    put("sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory pids\n");
  }

  fs::path root_;
};

TEST_F(NodeMetricsTest, MachineWithoutControlGroups) {
  auto metrics = reader();
  EXPECT_EQ(metrics.cpu_source(), "machine");
  metrics.sample(0);
  machine(130, 170);
  const auto sample = metrics.sample(kSecond);
  EXPECT_NEAR(sample.cpu_utilization, 0.30, 1e-9);
  EXPECT_NEAR(sample.memory_utilization, 0.25, 1e-9);
  EXPECT_NEAR(sample.load1, 1.5, 1e-9);
  EXPECT_EQ(sample.psi_cpu_some_avg10, -1) << "no pressure files";
  EXPECT_GT(sample.disk_free_bytes, 0u);
}

TEST_F(NodeMetricsTest, WindowIsASecondHoweverOftenItIsSampled) {
  auto metrics = reader();
  for (int i = 0; i <= 4; ++i) metrics.sample(i * kSecond / 4);
  machine(125, 100);  // all of the last quarter
  EXPECT_NEAR(metrics.sample(5 * kSecond / 4).cpu_utilization, 1.0, 1e-9);
  machine(125, 175);
  EXPECT_NEAR(metrics.sample(8 * kSecond / 4).cpu_utilization, 0.25, 1e-9);
  machine(125, 275);
  EXPECT_NEAR(metrics.sample(12 * kSecond / 4).cpu_utilization, 0.0, 1e-9);
}

TEST_F(NodeMetricsTest, Version2QuotaOfAnAncestor) {
  mount_v2();
  put("proc/self/cgroup", "0::/node-1/agent\n");
  put("sys/fs/cgroup/node-1/cpu.max", "150000 100000\n");
  put("sys/fs/cgroup/node-1/agent/cpu.max", "max 100000\n");
  put("sys/fs/cgroup/node-1/cpu.stat", "usage_usec 1000000\nuser_usec 1\n");
  put("sys/fs/cgroup/node-1/cpu.pressure", "some avg10=12.50 avg60=0.00\nfull avg10=1.00\n");
  auto metrics = reader();
  metrics.sample(10 * kSecond);
  put("sys/fs/cgroup/node-1/cpu.stat", "usage_usec 2200000\nuser_usec 1\n");
  const auto sample = metrics.sample(11 * kSecond);
  EXPECT_NEAR(sample.cpu_utilization, 0.8, 1e-9) << "1.2 of 1.5 CPUs";
  EXPECT_NEAR(sample.psi_cpu_some_avg10, 12.5, 1e-9) << "its own, not the machine's";
}

TEST_F(NodeMetricsTest, Version2Memory) {
  mount_v2();
  put("proc/self/cgroup", "0::/node-1\n");
  put("sys/fs/cgroup/node-1/memory.max", "1000000\n");
  put("sys/fs/cgroup/node-1/memory.current", "700000\n");
  put("sys/fs/cgroup/node-1/memory.stat", "anon 1\nfile 2\ninactive_file 200000\n");
  auto metrics = reader();
  EXPECT_NEAR(metrics.sample(0).memory_utilization, 0.5, 1e-9);
  EXPECT_EQ(metrics.capacity().memory_bytes, 1'000'000u);
}

TEST_F(NodeMetricsTest, Version2InsideAContainer) {
  // The mount shows the container's own group as its root, and so does the path.
  mount_v2("/docker/abc");
  put("proc/self/cgroup", "0::/docker/abc\n");
  put("sys/fs/cgroup/cpu.max", "50000 100000\n");
  put("sys/fs/cgroup/cpu.stat", "usage_usec 0\n");
  auto metrics = reader();
  metrics.sample(0);
  put("sys/fs/cgroup/cpu.stat", "usage_usec 250000\n");
  EXPECT_NEAR(metrics.sample(kSecond).cpu_utilization, 0.5, 1e-9);
}

TEST_F(NodeMetricsTest, Version1WithANamedGroup) {
  put("proc/self/mountinfo",
      "31 20 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
      "32 20 0:28 / /sys/fs/cgroup/cpuacct rw - cgroup cgroup rw,cpuacct\n"
      "33 20 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
      "34 20 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n");
  put("proc/self/cgroup", "4:cpu:/\n3:cpuacct:/\n2:memory:/\n0::/\n");
  put("sys/fs/cgroup/unified/cgroup.controllers", "\n");
  put("sys/fs/cgroup/cpu/baton/n1/cpu.cfs_quota_us", "100000\n");
  put("sys/fs/cgroup/cpu/baton/n1/cpu.cfs_period_us", "100000\n");
  put("sys/fs/cgroup/cpuacct/baton/n1/cpuacct.usage", "0\n");
  put("sys/fs/cgroup/memory/baton/n1/memory.limit_in_bytes", "9223372036854771712\n");
  auto metrics = reader("/baton/n1");
  metrics.sample(0);
  put("sys/fs/cgroup/cpuacct/baton/n1/cpuacct.usage", "900000000\n");
  const auto sample = metrics.sample(kSecond);
  EXPECT_NEAR(sample.cpu_utilization, 0.9, 1e-9);
  EXPECT_NEAR(sample.memory_utilization, 0.25, 1e-9) << "no limit of its own: the machine's";
  EXPECT_NEAR(metrics.capacity().cpus, 1.0, 1e-9);
}

TEST_F(NodeMetricsTest, NoQuotaMeansTheMachine) {
  mount_v2();
  put("proc/self/cgroup", "0::/user\n");
  put("sys/fs/cgroup/user/cpu.max", "max 100000\n");
  EXPECT_EQ(reader().cpu_source(), "machine");
}

TEST(MetricsParsers, Texts) {
  EXPECT_EQ(parse_pressure("some avg10=3.25 avg60=1 avg300=0 total=5\nfull avg10=0\n"), 3.25);
  EXPECT_FALSE(parse_pressure(""));
  EXPECT_EQ(parse_cpu_max("250000 100000\n"), 2.5);
  EXPECT_FALSE(parse_cpu_max("max 100000\n"));
  EXPECT_FALSE(parse_cpu_max("junk"));
  EXPECT_EQ(parse_keyed("a 1\nusage_usec 77\n", "usage_usec"), 77u);
  EXPECT_FALSE(parse_keyed("a 1\n", "b"));
}

}  // namespace
}  // namespace baton::sys
