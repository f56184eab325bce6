#include "sys/node_metrics.h"

#include <sched.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <charconv>
#include <sstream>
#include <vector>

#include "sys/file.h"
#include "sys/mounts.h"

namespace baton::sys {
namespace {

constexpr std::int64_t kWindowNs = 1'000'000'000;

std::string read_or_empty(const fs::path& path) { return read_file(path).value_or(""); }

std::optional<std::int64_t> parse_number(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  std::int64_t value = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc()) return std::nullopt;
  return value;
}

std::vector<std::string> split_words(const std::string& text, char separator) {
  std::vector<std::string> words;
  std::stringstream stream(text);
  for (std::string word; std::getline(stream, word, separator);) words.push_back(word);
  return words;
}

bool contains(const std::vector<std::string>& words, std::string_view wanted) {
  return std::ranges::find(words, wanted) != words.end();
}

bool has_controller(const fs::path& group, std::string_view controller) {
  std::istringstream names(read_or_empty(group / "cgroup.controllers"));
  for (std::string name; names >> name;)
    if (name == controller) return true;
  return false;
}

// The group and its ancestors up to the mount point, nearest first.
std::vector<fs::path> self_and_ancestors(fs::path group) {
  std::vector<fs::path> groups;
  for (; !group.empty(); group = group.parent_path()) groups.push_back(group);
  groups.push_back({});
  return groups;
}

std::optional<double> quota_of(const fs::path& folder, bool v2) {
  if (v2) return parse_cpu_max(read_or_empty(folder / "cpu.max"));
  auto quota = parse_number(read_or_empty(folder / "cpu.cfs_quota_us"));
  auto period = parse_number(read_or_empty(folder / "cpu.cfs_period_us"));
  if (!quota || !period || *quota <= 0 || *period <= 0) return std::nullopt;
  return static_cast<double>(*quota) / static_cast<double>(*period);
}

std::optional<std::uint64_t> memory_limit_of(const fs::path& folder, bool v2) {
  auto limit = parse_number(read_or_empty(folder / (v2 ? "memory.max" : "memory.limit_in_bytes")));
  // v1 says "no limit" with the largest page-aligned number.
  if (!limit || *limit <= 0 || *limit > (std::int64_t{1} << 60)) return std::nullopt;
  return static_cast<std::uint64_t>(*limit);
}

double usable_machine_cpus() {
  cpu_set_t set;
  if (::sched_getaffinity(0, sizeof(set), &set) != 0) return 1;
  return CPU_COUNT(&set);
}

}  // namespace

std::optional<double> parse_pressure(std::string_view text) {
  const auto at = text.find("some avg10=");
  if (at == std::string_view::npos) return std::nullopt;
  text.remove_prefix(at + 11);
  double value = 0;
  if (std::from_chars(text.data(), text.data() + text.size(), value).ec != std::errc())
    return std::nullopt;
  return value;
}

std::optional<double> parse_cpu_max(std::string_view text) {
  auto quota = parse_number(text);
  const auto space = text.find(' ');
  if (!quota || space == std::string_view::npos) return std::nullopt;
  auto period = parse_number(text.substr(space));
  if (!period || *period <= 0 || *quota <= 0) return std::nullopt;
  return static_cast<double>(*quota) / static_cast<double>(*period);
}

std::optional<std::uint64_t> parse_keyed(std::string_view text, std::string_view key) {
  while (!text.empty()) {
    const std::string_view line = text.substr(0, text.find('\n'));
    if (line.starts_with(key)) {
      auto value = parse_number(line.substr(key.size()));
      if (value && *value >= 0) return static_cast<std::uint64_t>(*value);
    }
    text.remove_prefix(std::min(text.size(), line.size() + 1));
  }
  return std::nullopt;
}

NodeMetricsReader::NodeMetricsReader(MetricsSources sources) : sources_(std::move(sources)) {
  find_cpu_group();
  find_memory_group();
  pressure_folder_ = sources_.root / "proc/pressure";
}

// Which mounted hierarchy has the controller, and where in it this node is. In a container the
// mount's root is often the container's own cgroup, so that part is taken off the path.
std::optional<NodeMetricsReader::Hierarchy> NodeMetricsReader::find_hierarchy(
    std::string_view controller) const {
  const auto mounts = parse_mountinfo(read_or_empty(sources_.root / "proc/self/mountinfo"));
  const auto lines = split_words(read_or_empty(sources_.root / "proc/self/cgroup"), '\n');
  for (const bool v2 : {false, true}) {
    for (const Mount& mount : mounts) {
      if (mount.type != (v2 ? "cgroup2" : "cgroup")) continue;
      if (!v2 && !contains(split_words(mount.super_options, ','), controller)) continue;
      Hierarchy found{sources_.root / mount.target.relative_path(), {}, v2};
      if (v2 && !has_controller(found.mount, controller)) continue;
      for (const std::string& line : lines) {
        const auto first = line.find(':');
        const auto second = line.find(':', first + 1);
        if (second == std::string::npos) continue;
        const std::string names = line.substr(first + 1, second - first - 1);
        if (v2 ? !names.empty() : !contains(split_words(names, ','), controller)) continue;
        fs::path path = line.substr(second + 1);
        const fs::path below = path.lexically_relative(mount.root);
        if (!below.empty() && below != "." && *below.begin() != "..") found.group = below;
      }
      if (!sources_.node_cgroup.empty())
        found.group = fs::path(sources_.node_cgroup).relative_path();
      return found;
    }
  }
  return std::nullopt;
}

void NodeMetricsReader::find_cpu_group() {
  auto hierarchy = find_hierarchy("cpu");
  if (!hierarchy) return;
  auto accounting = hierarchy->v2 ? hierarchy : find_hierarchy("cpuacct");
  if (!accounting) return;
  for (const fs::path& group : self_and_ancestors(hierarchy->group)) {
    auto quota = quota_of(hierarchy->mount / group, hierarchy->v2);
    if (!quota) continue;
    cpu_ = CpuGroup{hierarchy->mount / group, accounting->mount / group, hierarchy->v2, *quota};
    return;
  }
}

void NodeMetricsReader::find_memory_group() {
  auto hierarchy = find_hierarchy("memory");
  if (!hierarchy) return;
  const std::uint64_t machine =
      parse_keyed(read_or_empty(sources_.root / "proc/meminfo"), "MemTotal:").value_or(0) * 1024;
  for (const fs::path& group : self_and_ancestors(hierarchy->group)) {
    auto limit = memory_limit_of(hierarchy->mount / group, hierarchy->v2);
    if (!limit || *limit >= machine) continue;
    memory_ = MemoryGroup{hierarchy->mount / group, hierarchy->v2, *limit};
    return;
  }
}

NodeCapacity NodeMetricsReader::capacity() const {
  NodeCapacity capacity;
  capacity.cpus = cpu_ ? std::min(cpu_->quota_cpus, usable_machine_cpus()) : usable_machine_cpus();
  capacity.memory_bytes =
      memory_
          ? memory_->limit
          : parse_keyed(read_or_empty(sources_.root / "proc/meminfo"), "MemTotal:").value_or(0) *
                1024;
  return capacity;
}

std::string NodeMetricsReader::cpu_source() const {
  if (!cpu_) return "machine";
  return fmt::format("cgroup {} ({:.2f} CPUs)", cpu_->folder.string(), cpu_->quota_cpus);
}

std::optional<NodeMetricsReader::CpuUse> NodeMetricsReader::cpu_use(std::int64_t now_ns) const {
  CpuUse use{now_ns, 0, 0};
  if (cpu_) {
    if (cpu_->v2) {
      auto used = parse_keyed(read_or_empty(cpu_->usage_folder / "cpu.stat"), "usage_usec");
      if (!used) return std::nullopt;
      use.used_s = static_cast<double>(*used) / 1e6;
    } else {
      auto used = parse_number(read_or_empty(cpu_->usage_folder / "cpuacct.usage"));
      if (!used) return std::nullopt;
      use.used_s = static_cast<double>(*used) / 1e9;
    }
    use.available_s = static_cast<double>(now_ns) / 1e9 * cpu_->quota_cpus;
    return use;
  }
  // user nice system idle iowait irq softirq steal; guest time is in user already.
  std::istringstream line(read_or_empty(sources_.root / "proc/stat"));
  std::string label;
  line >> label;
  double value = 0;
  for (int column = 0; column < 8 && line >> value; ++column) {
    use.available_s += value;
    if (column != 3 && column != 4) use.used_s += value;
  }
  if (label != "cpu" || use.available_s == 0) return std::nullopt;
  return use;
}

double NodeMetricsReader::memory_utilization() const {
  if (memory_) {
    const std::string stat = read_or_empty(memory_->folder / "memory.stat");
    const char* usage = memory_->v2 ? "memory.current" : "memory.usage_in_bytes";
    const auto used = parse_number(read_or_empty(memory_->folder / usage)).value_or(0);
    const auto cache =
        parse_keyed(stat, memory_->v2 ? "inactive_file" : "total_inactive_file").value_or(0);
    const double working = static_cast<double>(used) - static_cast<double>(cache);
    return std::clamp(working / static_cast<double>(memory_->limit), 0.0, 1.0);
  }
  const std::string info = read_or_empty(sources_.root / "proc/meminfo");
  const auto total = parse_keyed(info, "MemTotal:");
  const auto available = parse_keyed(info, "MemAvailable:");
  if (!total || !available || *total == 0) return 0;
  return std::clamp(1.0 - static_cast<double>(*available) / static_cast<double>(*total), 0.0, 1.0);
}

// A cgroup of our own knows its own pressure; the machine's would mix in the neighbours'.
double NodeMetricsReader::pressure(const char* what) const {
  if (cpu_ && cpu_->v2) {
    auto own = parse_pressure(read_or_empty(cpu_->folder / fmt::format("{}.pressure", what)));
    if (own) return *own;
  }
  return parse_pressure(read_or_empty(pressure_folder_ / what)).value_or(-1);
}

NodeMetrics NodeMetricsReader::sample(std::int64_t now_ns) {
  NodeMetrics metrics;
  if (auto use = cpu_use(now_ns)) {
    // Keep exactly one entry that is at least a window old.
    while (window_.size() >= 2 && now_ns - window_[1].at_ns >= kWindowNs) window_.pop_front();
    if (!window_.empty()) {
      const double available = use->available_s - window_.front().available_s;
      const double used = use->used_s - window_.front().used_s;
      if (available > 0) metrics.cpu_utilization = std::clamp(used / available, 0.0, 1.0);
    }
    window_.push_back(*use);
  }
  metrics.memory_utilization = memory_utilization();
  metrics.psi_cpu_some_avg10 = pressure("cpu");
  metrics.psi_memory_some_avg10 = pressure("memory");
  metrics.psi_io_some_avg10 = pressure("io");
  std::istringstream(read_or_empty(sources_.root / "proc/loadavg")) >> metrics.load1;
  struct statvfs disk {};
  if (::statvfs(sources_.data.c_str(), &disk) == 0) {
    metrics.disk_free_bytes = static_cast<std::uint64_t>(disk.f_bavail) * disk.f_frsize;
    const double used = static_cast<double>(disk.f_blocks) - static_cast<double>(disk.f_bfree);
    const double all = used + static_cast<double>(disk.f_bavail);
    if (all > 0) metrics.disk_utilization = used / all;
  }
  return metrics;
}

}  // namespace baton::sys
