// How busy a node is: CPU, memory, pressure, load and disk.
//
// A node is a cgroup with a CPU quota where it has one (its own, the nearest ancestor's with a
// quota, or one that was named), else the machine. cgroup v1, v2 and hybrids are read; nothing is
// ever written.
#pragma once

#include <cstdint>
#include <deque>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace baton::sys {

// Fractions are 0..1, pressures percent, -1 where the kernel has none.
struct NodeMetrics {
  double cpu_utilization = 0;  // over the last second or so
  double memory_utilization = 0;
  double psi_cpu_some_avg10 = -1;
  double psi_memory_some_avg10 = -1;
  double psi_io_some_avg10 = -1;
  double load1 = 0;
  double disk_utilization = 0;
  std::uint64_t disk_free_bytes = 0;
};

// What the node may use in all.
struct NodeCapacity {
  double cpus = 0;
  std::uint64_t memory_bytes = 0;
};

// Where to read.
struct MetricsSources {
  std::filesystem::path root = "/";  // tests put a folder here that has proc/ and sys/
  std::filesystem::path data = "/";  // whose disk is meant
  std::string node_cgroup;  // path below the hierarchies' mount points; "": that of this process
};

// Not thread-safe; sample() is cheap (a handful of small files).
class NodeMetricsReader {
 public:
  explicit NodeMetricsReader(MetricsSources sources);

  NodeCapacity capacity() const;
  // `now_ns`: boot time. Utilization is that between this call and the one a second or more ago;
  // the first call has nothing to compare with and says 0.
  NodeMetrics sample(std::int64_t now_ns);

  // "cgroup /sys/fs/cgroup/node-1 (1.5 CPUs)" or "machine": what CPU utilization is measured on.
  std::string cpu_source() const;

 private:
  struct CpuUse {
    std::int64_t at_ns = 0;
    double used_s = 0;
    double available_s = 0;
  };
  struct CpuGroup {
    std::filesystem::path folder;        // the cgroup that has the quota
    std::filesystem::path usage_folder;  // v1 may keep cpuacct elsewhere
    bool v2 = false;
    double quota_cpus = 0;
  };
  struct MemoryGroup {
    std::filesystem::path folder;
    bool v2 = false;
    std::uint64_t limit = 0;
  };
  // A mounted hierarchy and this node's cgroup in it.
  struct Hierarchy {
    std::filesystem::path mount;
    std::filesystem::path group;  // relative
    bool v2 = false;
  };

  std::optional<Hierarchy> find_hierarchy(std::string_view controller) const;
  void find_cpu_group();
  void find_memory_group();
  std::optional<CpuUse> cpu_use(std::int64_t now_ns) const;
  double memory_utilization() const;
  double pressure(const char* what) const;

  const MetricsSources sources_;
  std::optional<CpuGroup> cpu_;
  std::optional<MemoryGroup> memory_;
  std::filesystem::path pressure_folder_;
  std::deque<CpuUse> window_;
};

// "some avg10=1.23 …" -> 1.23; nothing if there is no such line.
std::optional<double> parse_pressure(std::string_view text);
// "250000 100000" -> 2.5; "max 100000" -> nothing.
std::optional<double> parse_cpu_max(std::string_view text);
// The number after `key` at the start of a line ("usage_usec 12", "MemTotal:  12 kB").
std::optional<std::uint64_t> parse_keyed(std::string_view text, std::string_view key);

}  // namespace baton::sys
