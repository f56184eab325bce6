// What an agent says: registrations and heartbeats with their lists, results of orders, reports.
// The input is a number of messages: kind, size (two bytes) and the message itself, each. They are
// taken by a cluster in which one job runs, one is ordered to start and one waits.
#include "control/agent_words.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "control/record_codec.h"
#include "core/cluster.h"
#include "fuzz.h"
#include "quiet_protobuf.h"
#include "wire/text.h"

namespace baton::fuzz {
namespace {

class Conversation {
 public:
  Conversation() {
    for (const char* name : {"node-1", "node-2"}) {
      core::NodeRegistered up;
      up.facts = {.id = NodeId(name),
                  .cpus = 2,
                  .memory_bytes = 4ull << 30,
                  .criu_version = "4.2.1",
                  .cpu_features = {"avx"},
                  .cgroup_limits = true};
      up.epoch = "epoch";
      apply(up);
    }
    for (std::uint64_t id : {1, 2, 3}) {
      core::JobRecord job;
      job.id = JobId(id);
      job.name = "job-" + std::to_string(id);
      job.needs.wanted_node = NodeId(id == 3 ? "node-3" : "node-1");
      apply(core::SubmitJob{.request = id, .job = job});
    }
    apply(core::OrderDone{.kind = core::OrderKind::Start,
                          .job = JobId(1),
                          .generation = Generation(1),
                          .node = NodeId("node-1")});
    apply(core::CheckpointCommitted{
        .job = JobId(1),
        .generation = Generation(1),
        .facts = {
            .number = CheckpointNumber(1), .criu_version = "4.2.1", .cpu_features = {"avx"}}});
  }

  void hear(std::uint8_t kind, const std::string& bytes) {
    now_ += kind >> 3;
    switch (kind % 5) {
      case 0: return hear<v1::RegisterRequest>(bytes, control::take_registration);
      case 1: return hear<v1::HeartbeatRequest>(bytes, control::take_heartbeat);
      case 2: return hear<v1::CheckpointReport>(bytes, control::take_report);
      case 3: return hear<v1::ExitReport>(bytes, control::take_exit);
      case 4:
        return hear<v1::OrderResult>(bytes, [&](const v1::OrderResult& result) {
          core::OrderDone done = control::take_result(result);
          done.kind = static_cast<core::OrderKind>(result.order_id() % 8);
          done.job = JobId(1 + result.order_id() / 8 % 3);
          done.generation = Generation(1 + result.order_id() / 24 % 3);
          done.node = NodeId(result.order_id() / 72 % 2 ? "node-2" : "node-1");
          return done;
        });
    }
  }

  // What is saved can be loaded, and what is shown is text and numbers.
  void check() {
    for (const core::JobRecord* job : cluster_.jobs()) {
      const std::string saved = control::encode_record(*job);
      const auto loaded = control::decode_job_record(saved);
      require(loaded && control::encode_record(*loaded) == saved);
    }
    for (const core::NodeView& node : cluster_.nodes(now_)) {
      const std::string saved = control::encode_record(node.record);
      const auto loaded = control::decode_node_record(saved);
      require(loaded && control::encode_record(*loaded) == saved);
      require(std::isfinite(node.sample.cpu_utilization) && node.sample.cpu_utilization >= 0);
      require(std::isfinite(node.sample.memory_utilization) && node.sample.memory_utilization >= 0);
      require(wire::valid_utf8(node.remark) == node.remark);
    }
  }

 private:
  template <typename Message, typename Take>
  void hear(const std::string& bytes, const Take& take) {
    Message message;
    if (!message.ParseFromString(bytes)) return;
    auto input = take(message);
    if constexpr (requires { input.error(); }) {
      require(input || input.error().code() == ErrorCode::InvalidArgument);
      if (input) apply(*input);
    } else {
      apply(input);
    }
  }
  void apply(const core::Input& input) {
    for (const core::Output& output : cluster_.apply(input, now_)) {
      if (const auto* event = std::get_if<core::EmitEvent>(&output))
        require(wire::valid_utf8(event->text) == event->text);
      if (const auto* move = std::get_if<core::MoveFinished>(&output))
        require(std::isfinite(move->timing.downtime_ms) && std::isfinite(move->timing.restore_ms));
    }
  }

  core::TimeMs now_ = 1'000'000;
  core::Cluster cluster_{core::Config(), {}, {}, now_};
};

}  // namespace
}  // namespace baton::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace baton::fuzz;
  quiet_protobuf();
  Conversation conversation;
  std::string_view rest = as_text(data, size);
  while (rest.size() >= 3) {
    const auto kind = static_cast<std::uint8_t>(rest[0]);
    const std::size_t bytes =
        static_cast<std::uint8_t>(rest[1]) + (std::size_t{static_cast<std::uint8_t>(rest[2])} << 8);
    rest.remove_prefix(3);
    conversation.hear(kind, std::string(rest.substr(0, bytes)));
    rest.remove_prefix(std::min(bytes, rest.size()));
  }
  conversation.check();
  return 0;
}
