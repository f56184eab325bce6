#include "core/placement.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <tuple>

namespace baton::core {
namespace {

std::string gibibytes(std::uint64_t bytes) {
  return fmt::format("{:.1f} GiB", static_cast<double>(bytes) / (1u << 30));
}

double projected_cpu(const PlacementRequest& request, const Candidate& node) {
  if (node.facts.cpus <= 0) return node.sample.cpu_utilization;
  return node.sample.cpu_utilization + request.share_cores / node.facts.cpus;
}

double projected_memory(const PlacementRequest& request, const Candidate& node) {
  if (node.facts.memory_bytes == 0) return node.sample.memory_utilization;
  return node.sample.memory_utilization + static_cast<double>(request.needs.memory_bytes) /
                                              static_cast<double>(node.facts.memory_bytes);
}

std::optional<std::string> lacks_cpu_features(const PlacementRequest& request,
                                              const Candidate& node) {
  if (request.cpu_features == node.facts.cpu_features) return std::nullopt;
  std::vector<std::string> missing;
  std::ranges::set_difference(request.cpu_features.names(), node.facts.cpu_features.names(),
                              std::back_inserter(missing));
  if (missing.empty()) return std::nullopt;
  const std::size_t shown = std::min<std::size_t>(missing.size(), 5);
  std::string list = fmt::format("{}", fmt::join(missing.begin(), missing.begin() + shown, ", "));
  if (missing.size() > shown) list += fmt::format(" and {} more", missing.size() - shown);
  return "lacks CPU features the job may be using: " + list;
}

// What makes it impossible, whatever the urgency.
std::optional<std::string> impossible(const PlacementRequest& request, const Candidate& node) {
  if (auto it = request.excluded.find(node.facts.id); it != request.excluded.end()) {
    return it->second;
  }
  if (node.state == NodeState::Lost) return "is lost";
  if (node.state == NodeState::Quiet) return "has not been heard from lately";
  if (node.cordoned) return "is cordoned";
  if (node.draining) return "is being drained";
  if (request.restoring && node.facts.criu_version.empty()) return "has no working CRIU";
  if (request.restoring && compare_versions(node.facts.criu_version, request.criu_version) < 0) {
    return fmt::format("has CRIU {}, older than the {} that made the checkpoint",
                       node.facts.criu_version, request.criu_version);
  }
  if (request.restoring) {
    if (auto lacks = lacks_cpu_features(request, node)) return lacks;
  }
  if (request.needs.memory_bytes > node.facts.memory_bytes) {
    return fmt::format("has {} of memory, the job asks for {}", gibibytes(node.facts.memory_bytes),
                       gibibytes(request.needs.memory_bytes));
  }
  if (request.needs.cpus > node.facts.cpus) {
    return fmt::format("has {:g} CPUs, the job asks for {:g}", node.facts.cpus, request.needs.cpus);
  }
  if ((request.needs.memory_bytes > 0 || request.needs.cpus > 0) && !node.facts.cgroup_limits) {
    return "can't enforce the job's limits (no cgroups)";
  }
  return std::nullopt;
}

// What makes it a bad choice now.
std::optional<std::string> unsuitable(const PlacementRequest& request, const Candidate& node) {
  const Policy& policy = request.policy;
  if (node.sample.about_to_fail) {
    return node.sample.about_to_fail_cause.empty()
               ? std::string("is about to fail")
               : fmt::format("is about to fail ({})", node.sample.about_to_fail_cause);
  }
  const double cpu = node.sample.cpu_utilization;
  if (node.overloaded || cpu >= policy.cpu_threshold) {
    return fmt::format("is overloaded ({})", percent(std::max(cpu, 0.0)));
  }
  if (node.sample.memory_utilization >= policy.memory_threshold) {
    return fmt::format("is short of memory ({} used)", percent(node.sample.memory_utilization));
  }
  if (request.urgency != Urgency::Relief) return std::nullopt;
  if (cpu >= policy.cpu_clear) {
    return fmt::format("is busy itself ({}, wanted below {})", percent(cpu),
                       percent(policy.cpu_clear));
  }
  if (const double after = projected_cpu(request, node); after > policy.cpu_threshold) {
    return fmt::format("would be overloaded in turn ({} with the job)", percent(after));
  }
  if (const double after = projected_memory(request, node); after > policy.memory_threshold) {
    return fmt::format("would be short of memory in turn ({} with the job)", percent(after));
  }
  return std::nullopt;
}

}  // namespace

std::string percent(double fraction) { return fmt::format("{:.0f} %", fraction * 100); }

std::string Placement::why_none() const {
  if (rejected.empty()) return "no node has registered yet";
  return fmt::format("no node can take it: {}", fmt::join(rejected, "; "));
}

Placement place(const PlacementRequest& request, const std::vector<Candidate>& candidates) {
  using Score = std::tuple<bool, bool, bool, bool, long, std::uint32_t, std::string_view>;
  struct Suitable {
    Score score;
    const Candidate* node;
    std::optional<std::string> weakness;

    std::string figures() const {
      return fmt::format("CPU {}, {} {}{}", percent(node->sample.cpu_utilization), node->job_count,
                         node->job_count == 1 ? "job" : "jobs",
                         weakness ? ", but " + *weakness : "");
    }
  };
  Placement placement;
  std::vector<Suitable> suitable;
  for (const Candidate& node : candidates) {
    const NodeId& id = node.facts.id;
    if (!request.only.value.empty() && id != request.only) continue;
    auto problem = impossible(request, node);
    auto weakness = problem ? std::nullopt : unsuitable(request, node);
    const bool picky = request.urgency == Urgency::Relief || request.urgency == Urgency::Normal;
    if (!problem && picky) problem = weakness;
    if (problem) {
      placement.rejected.push_back(fmt::format("{} {}", id, *problem));
      continue;
    }
    const Score score{node.sample.about_to_fail,
                      weakness.has_value(),
                      node.facts.criu_version.empty(),
                      id != request.preferred,
                      std::lround(node.sample.cpu_utilization * 100),
                      node.job_count,
                      id.value};
    suitable.push_back({score, &node, std::move(weakness)});
  }
  if (suitable.empty()) return placement;
  if (request.tell_others) std::ranges::sort(suitable, {}, &Suitable::score);
  const auto best = std::ranges::min_element(suitable, {}, &Suitable::score);
  placement.node = best->node->facts.id;
  placement.why = best->figures();
  if (*placement.node == request.preferred)
    placement.why = "keeps its newest checkpoint ready; " + placement.why;
  if (!request.tell_others) return placement;
  for (auto other = std::next(best); other != suitable.end(); ++other)
    placement.others.push_back(fmt::format("{} ({})", other->node->facts.id, other->figures()));
  return placement;
}

int compare_versions(std::string_view a, std::string_view b) {
  auto next = [](std::string_view& rest) {
    unsigned long number = 0;
    std::from_chars(rest.data(), rest.data() + rest.size(), number);
    const auto dot = rest.find('.');
    rest = dot == std::string_view::npos ? std::string_view{} : rest.substr(dot + 1);
    return number;
  };
  while (!a.empty() || !b.empty()) {
    const auto x = next(a), y = next(b);
    if (x != y) return x < y ? -1 : 1;
  }
  return 0;
}

}  // namespace baton::core
