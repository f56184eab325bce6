#include "control/agent_words.h"

#include <algorithm>
#include <cmath>

#include "control/convert.h"
#include "control/validate.h"
#include "wire/text.h"

namespace baton::control {
namespace {

constexpr std::size_t kMaxNameBytes = 256;         // of an epoch, a boot's id
constexpr std::size_t kMaxFactsBytes = 256 << 10;  // features of a processor are some KiB
constexpr std::size_t kMaxSampleBytes = 16 << 10;
constexpr std::size_t kMaxErrorBytes = 16 << 10;
constexpr std::size_t kMaxLogTailBytes = 64 << 10;
constexpr double kMaxShare = 1'000;  // of a node's CPUs or memory
constexpr double kMaxCpus = 65'536;
constexpr double kMaxMs = 1e12;

// 0 in place of what is no number.
double figure(double value, double most) {
  return std::isnan(value) ? 0 : std::clamp(value, 0.0, most);
}

// The end of it, which says most.
std::string tail(std::string_view text, std::size_t most) {
  if (text.size() <= most) return std::string(text);
  return wire::valid_utf8(text.substr(text.size() - most));
}
std::string head(std::string_view text, std::size_t most) {
  if (text.size() <= most) return std::string(text);
  return wire::valid_utf8(text.substr(0, most)) + " …";
}

Status check_size(std::string_view what, std::size_t bytes, std::size_t most) {
  if (bytes <= most) return {};
  return fail(ErrorCode::InvalidArgument,
              fmt::format("{} of {} bytes; {} are the most", what, bytes, most));
}

template <typename Message>
Status check_lists(const Message& message) {
  if (message.incarnations_size() <= kMaxListed && message.staged_size() <= kMaxListed) return {};
  return fail(ErrorCode::InvalidArgument,
              fmt::format("a list of {} incarnations and {} copies; {} are the most of each",
                          message.incarnations_size(), message.staged_size(), kMaxListed));
}

core::IncarnationReport take_incarnation(const v1::Incarnation& incarnation) {
  core::IncarnationReport report;
  report.job = JobId(incarnation.job_id());
  report.generation = Generation(incarnation.generation());
  // What is none of ours does not run yet.
  report.state = v1::IncarnationState_IsValid(incarnation.state())
                     ? static_cast<core::IncarnationState>(incarnation.state())
                     : core::IncarnationState::Starting;
  const double cores = incarnation.has_cpu_cores() ? incarnation.cpu_cores() : -1;
  report.cpu_cores = cores >= 0 ? std::min(cores, kMaxCpus) : -1;
  return report;
}

template <typename Message, typename Input>
void take_lists(const Message& message, Input& input) {
  for (const auto& incarnation : message.incarnations())
    input.incarnations.push_back(take_incarnation(incarnation));
  for (const auto& copy : message.staged())
    input.staged.push_back({JobId(copy.job_id()), CheckpointNumber(copy.checkpoint())});
}

}  // namespace

Result<core::NodeRegistered> take_registration(const v1::RegisterRequest& request) {
  const auto checked = [&]() -> Status {
    BATON_CHECK(check_node_name(request.facts().name()));
    BATON_CHECK(check_size("facts", request.facts().ByteSizeLong(), kMaxFactsBytes));
    BATON_CHECK(check_size("an epoch", request.agent_epoch().size(), kMaxNameBytes));
    BATON_CHECK(check_size("a boot's id", request.boot_id().size(), kMaxNameBytes));
    if (request.agent_epoch().empty())
      return fail(ErrorCode::InvalidArgument, "the agent gives no epoch");
    return check_lists(request);
  };
  BATON_CHECK_CTX(checked(), "registration");
  core::NodeRegistered input;
  input.facts = from_wire(request.facts());
  input.facts.cpus = figure(input.facts.cpus, kMaxCpus);
  input.epoch = request.agent_epoch();
  input.boot_id = request.boot_id();
  take_lists(request, input);
  return input;
}

Result<core::Heartbeat> take_heartbeat(const v1::HeartbeatRequest& request) {
  BATON_CHECK_CTX(check_lists(request), "heartbeat");
  BATON_CHECK_CTX(check_size("a sample", request.sample().ByteSizeLong(), kMaxSampleBytes),
                  "heartbeat");
  core::Heartbeat input;
  input.node = NodeId(request.node());
  input.epoch = request.agent_epoch();
  input.sample = from_wire(request.sample());
  for (double* share : {&input.sample.cpu_utilization, &input.sample.memory_utilization})
    *share = figure(*share, kMaxShare);
  take_lists(request, input);
  return input;
}

core::OrderDone take_result(const v1::OrderResult& result) {
  core::OrderDone done;
  done.failure = from_wire(result.failure());
  done.error = head(result.error(), kMaxErrorBytes);
  done.log_tail = tail(result.log_tail(), kMaxLogTailBytes);
  done.checkpoint = CheckpointNumber(result.checkpoint());
  done.frozen_for_ms = figure(result.frozen_for_ms(), kMaxMs);
  done.fetch_ms = figure(result.fetch_ms(), kMaxMs);
  done.restore_ms = figure(result.restore_ms(), kMaxMs);
  done.running_for_ms = figure(result.running_for_ms(), kMaxMs);
  done.fetched_bytes = result.fetched_bytes();
  done.memory_ms = figure(result.memory_ms(), kMaxMs);
  return done;
}

core::CheckpointReported take_report(const v1::CheckpointReport& report) {
  core::CheckpointReported input;
  input.job = JobId(report.job_id());
  input.generation = Generation(report.generation());
  input.failure = from_wire(report.failure());
  input.error = head(report.error(), kMaxErrorBytes);
  input.log_tail = tail(report.log_tail(), kMaxLogTailBytes);
  input.preflight = report.preflight();
  input.checkpoint = CheckpointNumber(report.checkpoint());
  return input;
}

core::IncarnationExited take_exit(const v1::ExitReport& report) {
  core::IncarnationExited input;
  input.job = JobId(report.job_id());
  input.generation = Generation(report.generation());
  input.code = report.code();
  input.cause = exit_cause_from_wire(report.cause());
  input.detail = head(report.detail(), kMaxErrorBytes);
  return input;
}

}  // namespace baton::control
