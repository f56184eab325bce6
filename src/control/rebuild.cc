#include "control/rebuild.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <set>

#include "control/convert.h"
#include "control/record_codec.h"
#include "control/validate.h"
#include "core/events.h"
#include "store/reader.h"

namespace baton::control {
namespace {

struct Sighting {
  NodeId node;
  v1::Incarnation incarnation;
  std::uint64_t generation() const { return incarnation.generation(); }
  bool starts() const { return incarnation.state() == v1::INCARNATION_STARTING; }
};
using Sightings = std::map<JobId, std::vector<Sighting>>;  // ascending by generation

Sightings sort_reports(const CensusResult& census) {
  Sightings sightings;
  for (const auto& [node, report] : census)
    for (const auto& incarnation : report.incarnations)
      sightings[JobId(incarnation.job_id())].push_back({NodeId(node), incarnation});
  for (auto& [job, seen] : sightings) std::ranges::sort(seen, {}, &Sighting::generation);
  return sightings;
}

// A node's word is the last resort: it may speak of its own jobs alone, but who knows which.
v1::JobSpec find_spec(const std::vector<v1::Checkpoint>& checkpoints,
                      const std::vector<Sighting>& seen) {
  for (auto checkpoint = checkpoints.rbegin(); checkpoint != checkpoints.rend(); ++checkpoint)
    if (check_job_spec(checkpoint->spec())) return checkpoint->spec();
  for (auto sighting = seen.rbegin(); sighting != seen.rend(); ++sighting)
    if (check_job_spec(sighting->incarnation.spec())) return sighting->incarnation.spec();
  return {};
}

void place(core::JobRecord& record, const std::vector<Sighting>& seen) {
  const auto newest = [&](bool starts) -> const Sighting* {
    for (auto sighting = seen.rbegin(); sighting != seen.rend(); ++sighting)
      if (sighting->starts() == starts) return &*sighting;
    return nullptr;
  };
  const Sighting* settled = newest(false);
  const Sighting* starting = newest(true);
  const bool held = settled && settled->incarnation.state() == v1::INCARNATION_HELD;
  if (settled) {
    record.state = core::JobState::Running;
    record.current = {settled->node, Generation(settled->generation()),
                      held ? core::IncarnationState::Held : core::IncarnationState::Running};
    record.output_generation = record.current->generation;
  }
  // Beside one that runs there can be none.
  if (!starting || (settled && (!held || starting->generation() < settled->generation()))) return;
  // What a move or a recovery restores is the newest checkpoint, and nothing else was to be had.
  core::AttemptRecord& attempt = record.attempt.emplace();
  attempt.node = starting->node;
  attempt.generation = record.output_generation = Generation(starting->generation());
  attempt.cause = held ? core::Cause::User : core::Cause::NodeLost;
  record.output_floor = 0;
  for (const auto& checkpoint : record.checkpoints) {
    if (checkpoint.quarantined) continue;
    attempt.from = checkpoint.number;
    record.output_floor = checkpoint.output_bytes;
  }
  if (!settled)
    record.state = attempt.from.value == 0 ? core::JobState::Starting : core::JobState::Recovering;
}

class Rebuilder {
 public:
  Rebuilder(const core::Policy& policy, std::int64_t now_wall_ms)
      : policy_(policy), now_wall_ms_(now_wall_ms) {
    // People follow events by their numbers, which went on for as long as the cluster lived.
    next_event_ = static_cast<std::uint64_t>(now_wall_ms / 1'000);
  }

  void add(JobId id, const std::vector<v1::Checkpoint>& checkpoints,
           const std::vector<Sighting>& seen) {
    const v1::JobSpec spec = find_spec(checkpoints, seen);
    core::JobRecord record = record_from_spec(spec, policy_);
    record.id = id;
    record.name = free_name(spec.name(), id);
    std::uint64_t generation = seen.empty() ? 0 : seen.back().generation();
    for (const auto& checkpoint : checkpoints) {
      record.checkpoints.push_back(from_wire(checkpoint));
      record.is_protected = record.is_protected || !checkpoint.quarantined();
      generation = std::max(generation, checkpoint.generation());
      save(id, checkpoint);
    }
    record.next_generation = Generation(generation + kUnseenNumbers);
    place(record, seen);
    const bool lives = record.current || record.attempt;
    if (!lives) {
      record.state = core::JobState::Stopped;
      record.reason = "its record was lost; it may have ended before";
    }
    Changes::Job& job = changes_.jobs.emplace_back();
    job.id = id;
    job.record = encode_record(record);
    job.spec = spec.SerializeAsString();
    job.submitted_wall_ms = checkpoints.empty() ? now_wall_ms_ : checkpoints[0].taken_wall_ms();
    job.ended_wall_ms = lives ? 0 : now_wall_ms_;
    job.next_checkpoint = checkpoints.empty() ? 1 : checkpoints.back().number() + 1;
    (lives ? running_ : stopped_).push_back(record.name);
    tell(record, spec.argv_size() > 0);
    last_id_ = std::max(last_id_, id.value);
  }

  void add(const NodeReport& report) {
    core::NodeRecord record;
    record.facts = from_wire(report.facts);
    record.boot_id = report.boot_id;
    changes_.nodes.push_back(
        {record.facts.id, encode_record(record), report.facts.SerializeAsString()});
  }

  Changes finish(const std::string& why) {
    changes_.next_job_id = last_id_ + kUnseenNumbers;
    const auto names = [](const std::vector<std::string>& jobs) {
      return jobs.empty() ? "none" : fmt::format("{}", fmt::join(jobs, ", "));
    };
    add_event({}, fmt::format(
                      "the records of this cluster are lost ({}) and were put together again from "
                      "checkpoints and nodes. Jobs that run: {}. That do not, and may have ended: "
                      "{}. Not known any more: jobs without checkpoint or output that ran on no "
                      "node; which checkpoints were pinned (all are, as \"{}\") or in quarantine; "
                      "restarts that were counted; moves and events; which nodes were cordoned or "
                      "draining",
                      why, names(running_), names(stopped_), kFoundPin));
    return std::move(changes_);
  }

 private:
  std::string free_name(const std::string& wanted, JobId id) {
    std::string name = check_job_name(wanted) ? wanted : fmt::format("job-{}", id);
    if (!names_.insert(name).second) {
      name = fmt::format("{}-{}", name.substr(0, 40), id);
      names_.insert(name);
    }
    return name;
  }

  void save(JobId id, v1::Checkpoint checkpoint) {
    checkpoint.clear_spec();
    checkpoint.add_pins(kFoundPin);
    changes_.checkpoints.push_back({id, std::move(checkpoint)});
  }

  void tell(const core::JobRecord& record, bool described) {
    std::string text = record.name + ": its record was lost; ";
    if (record.current)
      text += fmt::format("it runs on {}", record.current->node);
    else if (record.attempt)
      text += fmt::format("it is being started on {}", record.attempt->node);
    else if (record.is_protected)
      text += fmt::format(
          "it runs nowhere, and may have ended; `baton restore {}` has it go on from its newest "
          "checkpoint",
          record.name);
    else
      text += "it runs nowhere, and what it printed is all that is left";
    if (!described) text += ". Its name, command, volumes and policy are not known";
    v1::Event event;
    event.set_job_id(record.id.value);
    event.set_job_name(record.name);
    add_event(std::move(event), std::move(text));
  }

  void add_event(v1::Event event, std::string text) {
    event.set_sequence(next_event_++);
    event.set_at_wall_ms(now_wall_ms_);
    event.set_kind(core::event::kRecordsLost);
    event.set_text(std::move(text));
    changes_.events.push_back(std::move(event));
  }

  const core::Policy& policy_;
  const std::int64_t now_wall_ms_;
  Changes changes_;
  std::set<std::string> names_;
  std::vector<std::string> running_, stopped_;
  std::uint64_t last_id_ = 0;
  std::uint64_t next_event_ = 1;
};

}  // namespace

Result<Remnants> find_remnants(store::CheckpointStore& checkpoints, const OutputLogs& logs) {
  Remnants remnants;
  BATON_TRY(const auto stored, checkpoints.list());
  for (const auto& [job, number] : stored) {
    auto found = [&, job = job, number = number]() -> Result<v1::Checkpoint> {
      BATON_TRY(const auto reader, checkpoints.open_reader(job, number));
      return from_store_json(reader->manifest().info_json);
    }();
    v1::Checkpoint checkpoint;
    if (found) checkpoint = std::move(*found);
    checkpoint.set_job_id(job.value);
    checkpoint.set_number(number.value);
    if (!found) {
      checkpoint.set_quarantined(true);
      checkpoint.set_quarantine_cause(found.error().message());
    }
    remnants[job].push_back(std::move(checkpoint));
  }
  for (auto& [job, list] : remnants) std::ranges::sort(list, {}, &v1::Checkpoint::number);
  BATON_TRY(const auto logged, logs.list());
  for (JobId job : logged)
    if (logs.size_bytes(job) > 0) remnants[job];
  return remnants;
}

Changes rebuild(const Remnants& remnants, const CensusResult& census, const core::Policy& policy,
                const std::string& why, std::int64_t now_wall_ms) {
  Rebuilder rebuilder(policy, now_wall_ms);
  const Sightings sightings = sort_reports(census);
  std::set<JobId> jobs;
  for (const auto& [job, checkpoints] : remnants) jobs.insert(job);
  for (const auto& [job, seen] : sightings) jobs.insert(job);
  for (JobId job : jobs) {
    const auto left = remnants.find(job);
    const auto seen = sightings.find(job);
    rebuilder.add(job, left == remnants.end() ? std::vector<v1::Checkpoint>() : left->second,
                  seen == sightings.end() ? std::vector<Sighting>() : seen->second);
  }
  for (const auto& [node, report] : census) rebuilder.add(report);
  return rebuilder.finish(why);
}

}  // namespace baton::control
