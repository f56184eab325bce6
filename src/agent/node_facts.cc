#include "agent/node_facts.h"

#include <sys/utsname.h>

#include <algorithm>
#include <sstream>

#include "sys/file.h"

namespace baton::agent {

std::vector<std::string> parse_cpu_features(std::string_view cpuinfo) {
  std::vector<std::string> features;
  // x86 says "flags", ARM "Features"; all processors of a machine are taken to be alike.
  for (const std::string_view key : {"\nflags", "\nFeatures"}) {
    const auto at = cpuinfo.find(key);
    if (at == std::string_view::npos) continue;
    const std::string_view line = cpuinfo.substr(at + 1, cpuinfo.find('\n', at + 1) - at - 1);
    const auto colon = line.find(':');
    if (colon == std::string_view::npos) continue;
    std::istringstream words{std::string(line.substr(colon + 1))};
    for (std::string word; words >> word;) features.push_back(word);
    break;
  }
  std::ranges::sort(features);
  return features;
}

std::vector<std::string> cpu_features() {
  return parse_cpu_features("\n" + sys::read_file("/proc/cpuinfo").value_or(""));
}

std::string boot_id() {
  std::string id = sys::read_file("/proc/sys/kernel/random/boot_id").value_or("");
  while (!id.empty() && id.back() == '\n') id.pop_back();
  return id;
}

std::string kernel_release() {
  utsname name{};
  return ::uname(&name) == 0 ? name.release : "";
}

pb::NodeSample to_sample(const sys::NodeMetrics& metrics) {
  pb::NodeSample sample;
  sample.set_cpu_utilization(metrics.cpu_utilization);
  sample.set_memory_utilization(metrics.memory_utilization);
  sample.set_psi_cpu_some_avg10(metrics.psi_cpu_some_avg10);
  sample.set_psi_memory_some_avg10(metrics.psi_memory_some_avg10);
  sample.set_psi_io_some_avg10(metrics.psi_io_some_avg10);
  sample.set_load1(metrics.load1);
  sample.set_disk_utilization(metrics.disk_utilization);
  sample.set_disk_free_bytes(metrics.disk_free_bytes);
  return sample;
}

}  // namespace baton::agent
