#include "world.h"

#include <algorithm>

namespace baton::sim {

std::uint64_t Output::size() const {
  std::uint64_t total = 0;
  for (const auto& [by, bytes] : runs) total += bytes;
  return total;
}

void Output::append(Generation by, std::uint64_t bytes) {
  if (bytes == 0) return;
  if (!runs.empty() && runs.back().first == by) {
    runs.back().second += bytes;
  } else {
    runs.emplace_back(by, bytes);
  }
}

void Output::truncate(std::uint64_t bytes) {
  std::uint64_t total = 0;
  for (std::size_t i = 0; i < runs.size(); ++i) {
    if (total + runs[i].second >= bytes) {
      runs[i].second = bytes - total;
      runs.resize(runs[i].second == 0 ? i : i + 1);
      return;
    }
    total += runs[i].second;
  }
}

void Output::extend_from(const Output& other) {
  std::uint64_t skip = size();
  for (const auto& [by, bytes] : other.runs) {
    const std::uint64_t skipped = std::min(skip, bytes);
    skip -= skipped;
    append(by, bytes - skipped);
  }
}

bool Output::is_prefix_of(const Output& other) const {
  Output cut = other;
  cut.truncate(size());
  return cut == *this;
}

std::string Output::describe() const {
  std::string text;
  for (const auto& [by, bytes] : runs) text += fmt::format("{}x{} ", bytes, by.value);
  return text;
}

void World::add(const SandboxPtr& sandbox) {
  auto& all = sandboxes_[sandbox->job];
  std::erase_if(all, [](const SandboxPtr& old) { return old->life == Life::Ended; });
  all.push_back(sandbox);
  set_life(*sandbox, sandbox->life);
}

void World::accrue(Sandbox& sandbox) {
  if (sandbox.life != Life::Running) return;
  const TimeUs step = 10 * kMs;
  const auto bytes = static_cast<std::uint64_t>((kernel_.now() - sandbox.running_since) / step);
  sandbox.output.append(sandbox.generation, bytes);
  sandbox.running_since += static_cast<TimeUs>(bytes) * step;
}

void World::set_life(Sandbox& sandbox, Life life) {
  accrue(sandbox);
  if (life == Life::Running) sandbox.running_since = kernel_.now();
  sandbox.life = life;
  kernel_.trace(fmt::format("  sandbox job {} gen {} on {}: {}", sandbox.job.value,
                            sandbox.generation.value, sandbox.node.value,
                            std::vector{"starting", "running", "frozen", "held",
                                        "ended"}[static_cast<std::size_t>(life)]));
  if (!may_run(life)) return;
  const auto others = running(sandbox.job);
  if (others.size() > 1) {
    std::string who;
    for (const auto& other : others) {
      who += fmt::format(" generation {} on {}", other->generation.value, other->node.value);
    }
    kernel_.fail(fmt::format("job {} runs {} times:{}", sandbox.job.value, others.size(), who));
  }
}

std::vector<SandboxPtr> World::running(JobId job) const {
  std::vector<SandboxPtr> result;
  auto it = sandboxes_.find(job);
  if (it == sandboxes_.end()) return result;
  // A frozen one is about to run again unless it becomes held, so it counts as well.
  std::ranges::copy_if(it->second, std::back_inserter(result), [](const SandboxPtr& sandbox) {
    return may_run(sandbox->life) || sandbox->life == Life::Frozen;
  });
  return result;
}

void World::launched(JobId job, Generation generation) {
  std::uint64_t& newest = newest_generation_[job];
  // The same generation again is a repeated question, not a new incarnation.
  if (generation.value < newest) {
    kernel_.fail(fmt::format("job {}: generation {} was ordered after {}", job.value,
                             generation.value, newest));
  }
  newest = std::max(newest, generation.value);
}

}  // namespace baton::sim
