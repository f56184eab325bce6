#include "control/state.h"

#include <fmt/ranges.h>

#include <charconv>

#include "control/convert.h"
#include "control/record_codec.h"

namespace baton::control {
namespace {

constexpr std::size_t kFewNames = 12;

std::vector<core::JobRecord> job_records(const Loaded& loaded) {
  std::vector<core::JobRecord> records;
  for (const auto& row : loaded.jobs) {
    records.push_back(row.record);
    for (const auto& checkpoint : loaded.checkpoints)
      if (checkpoint.job == row.record.id)
        records.back().checkpoints.push_back(from_wire(checkpoint.info));
  }
  return records;
}

std::vector<core::NodeRecord> node_records(const Loaded& loaded) {
  std::vector<core::NodeRecord> records;
  for (const auto& row : loaded.nodes) records.push_back(row.record);
  return records;
}

std::string known_names(std::vector<std::string> names, std::string_view what) {
  if (names.empty()) return fmt::format("there are no {}", what);
  if (names.size() > kFewNames) return fmt::format("there are {} {}", names.size(), what);
  return fmt::format("{} there are: {}", what, fmt::join(names, ", "));
}

std::optional<std::uint64_t> parse_id(const std::string& text) {
  std::uint64_t value = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

}  // namespace

State::State(const core::Config& config, Loaded loaded, core::TimeMs now)
    : core(config, job_records(loaded), node_records(loaded), now),
      next_job_id(loaded.next_job_id) {
  for (auto& row : loaded.jobs) {
    JobEntry& entry = jobs[row.record.id];
    entry.spec = std::move(row.spec);
    entry.submitted_wall_ms = row.submitted_wall_ms;
    entry.ended_wall_ms = row.ended_wall_ms;
    entry.next_checkpoint = row.next_checkpoint;
    entry.stored = true;
  }
  for (auto& row : loaded.checkpoints) {
    JobEntry& entry = jobs[row.job];
    CheckpointNumber number(row.info.number());
    entry.next_checkpoint = std::max(entry.next_checkpoint, number.value + 1);
    entry.checkpoints.emplace(number, std::move(row.info));
  }
  for (auto& [job, timing] : loaded.moves) jobs[job].moves.push_back(std::move(timing));
  for (auto& row : loaded.nodes)
    nodes[row.record.facts.id].facts = std::make_shared<const v1::NodeFacts>(std::move(row.facts));
}

Result<JobId> State::find_job(const std::string& name_or_id) const {
  const core::JobRecord* record = core.find_job(std::string_view(name_or_id));
  if (auto id = parse_id(name_or_id); !record && id) record = core.find_job(JobId(*id));
  if (record && jobs.contains(record->id)) return record->id;
  std::vector<std::string> names;
  for (const auto* job : core.jobs()) names.push_back(job->name);
  return fail(ErrorCode::NotFound, fmt::format("there is no job \"{}\"; {}", name_or_id,
                                               known_names(std::move(names), "jobs")));
}

Result<NodeId> State::find_node(const std::string& name) const {
  NodeId id(name);
  if (core.find_node(id)) return id;
  std::vector<std::string> names;
  for (const auto& [node, entry] : nodes) names.push_back(node.value);
  return fail(ErrorCode::NotFound, fmt::format("there is no node \"{}\"; {}", name,
                                               known_names(std::move(names), "nodes")));
}

Result<std::pair<JobId, CheckpointNumber>> State::find_checkpoint(
    const v1::CheckpointRef& ref) const {
  BATON_TRY(JobId job, find_job(ref.job().name_or_id()));
  const auto& checkpoints = jobs.at(job).checkpoints;
  CheckpointNumber number(ref.number());
  if (number.value != 0 && checkpoints.contains(number)) return std::pair(job, number);
  std::vector<std::string> numbers;
  for (const auto& [other, info] : checkpoints) {
    numbers.push_back(fmt::to_string(other.value));
    if (ref.number() == 0 && !info.quarantined() && info.damage_size() == 0) number = other;
  }
  if (ref.number() == 0 && number.value != 0) return std::pair(job, number);
  return fail(ErrorCode::NotFound,
              fmt::format("job \"{}\" has no {}; {}", ref.job().name_or_id(),
                          ref.number() ? fmt::format("checkpoint {}", ref.number())
                                       : std::string("good checkpoint"),
                          known_names(std::move(numbers), "checkpoints")));
}

v1::Job State::job_view(JobId id) const {
  v1::Job job;
  const core::JobRecord* record = core.find_job(id);
  auto entry = jobs.find(id);
  if (!record || entry == jobs.end()) return job;
  job.set_id(id.value);
  *job.mutable_spec() = entry->second.spec;
  job.mutable_spec()->set_name(record->name);
  // Up to 64 MiB that nobody wants to see in a listing.
  job.mutable_spec()->clear_stdin_data();
  job.set_state(to_wire(record->state));
  job.set_reason(record->reason);
  if (record->current) {
    job.set_node(record->current->node.value);
    job.set_generation(record->current->generation.value);
  } else if (record->attempt) {
    job.set_node(record->attempt->node.value);
    job.set_generation(record->attempt->generation.value);
  }
  if (record->exit_code) job.set_exit_code(*record->exit_code);
  job.set_is_protected(record->is_protected);
  job.set_unprotected_cause(record->unprotected_cause);
  for (const auto& [number, info] : entry->second.checkpoints) {
    if (!info.quarantined()) job.set_newest_checkpoint(number.value);
    job.set_tier(info.memory());
  }
  job.set_checkpoint_count(static_cast<std::uint32_t>(entry->second.checkpoints.size()));
  job.set_submitted_wall_ms(entry->second.submitted_wall_ms);
  job.set_ended_wall_ms(entry->second.ended_wall_ms);
  for (const auto& move : entry->second.moves) *job.add_moves() = move;
  job.set_last_error(record->last_error);
  job.set_last_error_log(record->last_error_log);
  job.set_restarts(record->restarts);
  job.set_desired_stop(record->desired_stop);
  const core::StandbyView standby = core.standby(id);
  job.set_standby(standby.node.value);
  job.set_standby_checkpoint(standby.ready.value);
  return job;
}

v1::Checkpoint State::checkpoint_view(JobId job, const v1::Checkpoint& info) const {
  v1::Checkpoint view = info;
  const core::JobRecord* record = core.find_job(job);
  auto entry = jobs.find(job);
  if (!record || !record->current || entry == jobs.end()) return view;
  const auto& checkpoints = entry->second.checkpoints;
  const bool newest = !checkpoints.empty() && checkpoints.rbegin()->first.value == info.number();
  if (newest && info.node() == record->current->node.value) view.add_copies(info.node());
  const core::StandbyView standby = core.standby(job);
  if (standby.ready.value != 0 && standby.ready.value == info.number())
    view.add_copies(standby.node.value);
  return view;
}

v1::Node State::node_view(const core::NodeView& view) const {
  auto entry = nodes.find(view.record.facts.id);
  v1::Node node = to_wire(view);
  if (entry != nodes.end()) *node.mutable_sample() = entry->second.sample;
  return node;
}

std::shared_ptr<const v1::NodeFacts> State::node_facts(const NodeId& id) const {
  auto entry = nodes.find(id);
  if (entry != nodes.end() && entry->second.facts) return entry->second.facts;
  v1::NodeFacts facts;
  facts.set_name(id.value);
  return std::make_shared<const v1::NodeFacts>(std::move(facts));
}

Changes::Job State::job_changes(const core::JobRecord& record, const JobEntry& entry) const {
  Changes::Job changes;
  changes.id = record.id;
  changes.record = encode_record(record);
  changes.submitted_wall_ms = entry.submitted_wall_ms;
  changes.ended_wall_ms = entry.ended_wall_ms;
  changes.next_checkpoint = entry.next_checkpoint;
  return changes;
}

bool nothing_to_go_back_to(const core::JobRecord& record, const JobEntry& entry) {
  bool none_to_come = entry.spec.interval_ms() == 0 || !record.unprotected_cause.empty();
  for (const auto& checkpoint : record.checkpoints)
    if (!checkpoint.quarantined) return false;
  return none_to_come && record.restart == core::RestartPolicy::Never;
}

}  // namespace baton::control
