// A cluster under test: inputs in, outputs sorted out, time by hand.
#pragma once

#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <vector>

#include "core/cluster.h"
#include "core/events.h"

namespace baton::core {

class ClusterTest : public ::testing::Test {
 protected:
  static constexpr TimeMs kTerm = 3'000 + 6 + 150;  // lease * (1 + 2 e) + margin

  std::vector<Output> apply(const Input& input) {
    last = cluster().apply(input, now);
    for (const Output& output : last) {
      if (const auto* event = std::get_if<EmitEvent>(&output)) events.push_back(*event);
      if (const auto* move = std::get_if<MoveFinished>(&output)) moves.push_back(*move);
    }
    return last;
  }
  Cluster& cluster() {
    if (!cluster_)
      cluster_.emplace(config, std::vector<JobRecord>{}, std::vector<NodeRecord>{}, now);
    return *cluster_;
  }
  // As a restart of the controller: from what it has saved.
  void restart_controller() {
    std::vector<JobRecord> jobs;
    for (const JobRecord* job : cluster().jobs()) jobs.push_back(*job);
    std::vector<NodeRecord> nodes;
    for (const NodeView& node : cluster().nodes(now)) nodes.push_back(node.record);
    cluster_.emplace(config, std::move(jobs), std::move(nodes), now);
  }

  NodeFacts facts(const std::string& node) {
    return {.id = NodeId(node),
            .cpus = 2,
            .memory_bytes = 4ull << 30,
            .criu_version = "4.2.1",
            .cpu_features = {"avx", "sse4"},
            .cgroup_limits = true};
  }
  void up(const std::string& node, std::vector<IncarnationReport> list = {},
          std::string epoch = "a") {
    epochs[node] = epoch;
    lists[node] = list;
    apply(NodeRegistered{.facts = facts(node), .epoch = epoch, .incarnations = std::move(list)});
  }
  void beat(const std::string& node, double cpu = 0.03, double memory = 0.1) {
    Heartbeat heartbeat{.node = NodeId(node), .epoch = epochs[node], .incarnations = lists[node]};
    heartbeat.sample.cpu_utilization = cpu;
    heartbeat.sample.memory_utilization = memory;
    apply(heartbeat);
  }
  // Time passes while the named nodes send a heartbeat each 600 ms.
  void pass(TimeMs ms, const std::vector<std::string>& nodes, double cpu = 0.03) {
    const TimeMs end = now + ms;
    while (now < end) {
      now = std::min(end, now + 600);
      for (const auto& node : nodes) beat(node, cpu);
      apply(Tick{});
    }
  }

  JobRecord spec(std::uint64_t id = 1, const std::string& node = "") {
    JobRecord record;
    record.id = JobId(id);
    record.name = id == 1 ? "loop" : "loop-" + std::to_string(id);
    record.needs.wanted_node = NodeId(node);
    record.policy = config.policy;
    return record;
  }
  // The job runs on `node` and has `checkpoints` checkpoints of 100 bytes of output each.
  void run(const std::string& node, int checkpoints = 1, std::uint64_t id = 1) {
    apply(SubmitJob{1, spec(id, node)});
    ASSERT_TRUE(one<Reply>() && one<Reply>()->status);
    done(OrderKind::Start, node, 1, FailureKind::None, id);
    lists[node].push_back({JobId(id), Generation(1)});
    for (int n = 1; n <= checkpoints; ++n) commit(n, 1, id);
  }
  void commit(std::uint64_t number, std::uint64_t generation = 1, std::uint64_t id = 1) {
    CheckpointFacts checkpoint{.number = CheckpointNumber(number),
                               .criu_version = "4.2.1",
                               .cpu_features = {"avx", "sse4"},
                               .output_bytes = number * 100};
    apply(CheckpointCommitted{JobId(id), Generation(generation), checkpoint});
  }
  void done(OrderKind kind, const std::string& node, std::uint64_t generation,
            FailureKind failure = FailureKind::None, std::uint64_t id = 1) {
    OrderDone result{.kind = kind,
                     .job = JobId(id),
                     .generation = Generation(generation),
                     .node = NodeId(node),
                     .failure = failure};
    if (failure != FailureKind::None) result.error = "because of the test";
    apply(result);
  }
  void frozen(const std::string& node, std::uint64_t generation, std::uint64_t number,
              std::uint64_t id = 1) {
    commit(number, generation, id);
    apply(OrderDone{.kind = OrderKind::Freeze,
                    .job = JobId(id),
                    .generation = Generation(generation),
                    .node = NodeId(node),
                    .checkpoint = CheckpointNumber(number),
                    .frozen_for_ms = 20});
  }
  void exited(std::uint64_t generation, ExitCause cause, int code = 0) {
    apply(IncarnationExited{JobId(1), Generation(generation), code, cause, ""});
  }

  const JobRecord& job(std::uint64_t id = 1) { return *cluster().find_job(JobId(id)); }

  template <typename T>
  std::vector<T> all() const {
    std::vector<T> result;
    for (const Output& output : last) {
      if (const auto* found = std::get_if<T>(&output)) result.push_back(*found);
    }
    return result;
  }
  template <typename T>
  std::optional<T> one() const {
    const auto found = all<T>();
    EXPECT_LE(found.size(), 1u);
    return found.empty() ? std::nullopt : std::optional<T>(found[0]);
  }
  bool told(const std::string& kind, const std::string& part = "") const {
    for (const EmitEvent& event : events) {
      if (event.kind == kind && event.text.find(part) != std::string::npos) return true;
    }
    return false;
  }
  int times_told(const std::string& kind) const {
    return static_cast<int>(std::count_if(events.begin(), events.end(),
                                          [&](const EmitEvent& e) { return e.kind == kind; }));
  }
  Error reply_error() const {
    const auto reply = one<Reply>();
    return reply && !reply->status ? reply->status.error() : Error(ErrorCode::Internal, "no error");
  }

  // Tests of staging set this; the others look at what comes after it.
  void with_staging() {
    config.stage_rounds = Config{}.stage_rounds;
    config.policy.standby = true;
  }
  void staged(const std::string& node, std::uint64_t number,
              FailureKind failure = FailureKind::None, std::uint64_t id = 1) {
    apply(OrderDone{.kind = OrderKind::Stage,
                    .job = JobId(id),
                    .node = NodeId(node),
                    .failure = failure,
                    .checkpoint = CheckpointNumber(number)});
  }

  Config config = [] {
    Config config;
    config.stage_rounds = 0;
    config.policy.standby = false;
    return config;
  }();
  TimeMs now = 1'000'000;
  std::vector<Output> last;
  std::vector<EmitEvent> events;
  std::vector<MoveFinished> moves;
  std::map<std::string, std::string> epochs;
  std::map<std::string, std::vector<IncarnationReport>> lists;

 private:
  std::optional<Cluster> cluster_;
};

}  // namespace baton::core
