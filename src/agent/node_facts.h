// What this node is and can do.
#pragma once

#include <string>
#include <vector>

#include "sys/node_metrics.h"
#include "wire/baton.pb.h"

namespace baton::agent {

namespace pb = baton::v1;

// The CPU's feature flags as the kernel lists them, sorted.
std::vector<std::string> parse_cpu_features(std::string_view cpuinfo);
std::vector<std::string> cpu_features();
// Of this boot of the machine.
std::string boot_id();
std::string kernel_release();

pb::NodeSample to_sample(const sys::NodeMetrics& metrics);

}  // namespace baton::agent
