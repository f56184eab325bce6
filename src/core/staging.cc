// Copies of checkpoints where they will be needed: at the target of a planned move before the job
// is frozen, and on a second node, the standby, in case the first one is lost.
//
// Level-triggered like the rest. A node lists what it keeps in each registration and heartbeat;
// what is in no job's `staged` is dropped, so an order or an answer that is lost costs a little
// disk for a while and nothing else.
#include <algorithm>

#include "core/impl.h"

namespace baton::core {
namespace {

// A round that is not shorter than this share of the one before: more of them won't help.
constexpr double kWorthIt = 0.7;

// No standby is given a copy while jobs of a lost node are being restored, for so long at most.
constexpr TimeMs kRecoveriesFirstMs = 10'000;

std::string mebibytes(std::uint64_t bytes) {
  return fmt::format("{:.1f} MiB", static_cast<double>(bytes) / (1 << 20));
}

}  // namespace

// ------------------------------------------------------------------ planned moves

// A round brings the newest checkpoint to the target; all but the first take a new one before. The
// job runs meanwhile, and what is left for the freeze is what it writes during the last round.
bool Cluster::Impl::finish_rounds(Job& job) {
  Move& move = *job.move;
  Rounds& rounds = move.rounds;
  if (move.to == move.from || config_.stage_rounds == 0) rounds.step = Rounds::Step::Done;
  while (rounds.step != Rounds::Step::Done) {
    if (move.deadline && *move.deadline <= now_) break;
    if (move.to.value.empty() || !find(move.to)->reachable()) {
      const bool named = !move.only.value.empty();
      PlacementRequest request =
          wish(job, named ? Urgency::Named : Urgency::Normal, move.only, nullptr);
      request.excluded[move.from] = "is its source";
      if (const Placement placement = place_job(request); placement.node) {
        move.to = *placement.node;
      } else {
        break;  // it is looked for once more when the checkpoint is there
      }
    }
    if (rounds.step == Rounds::Step::Idle) begin_round(job);
    if (rounds.step == Rounds::Step::Checkpoint) {
      if (job.checkpoint_asked) return false;
      rounds.step = Rounds::Step::Stage;
    }
    if (rounds.step == Rounds::Step::Stage) {
      const Staged& staged = job.staged[move.to];
      if (staged.asked.value != 0) return false;
      if (staged.ready.value != 0 && staged.ready == rounds.goal) {
        round_over(job);
        continue;
      }
      const CheckpointFacts* newest =
          move.pinned.value != 0 ? checkpoint(job, move.pinned) : newest_usable(job);
      if (newest == nullptr) break;
      rounds.goal = newest->number;
      if (staged.ready != rounds.goal) stage(job, move.to, rounds.goal);
    }
  }
  rounds.step = Rounds::Step::Done;
  move.deadline.reset();
  return true;
}

void Cluster::Impl::begin_round(Job& job) {
  Move& move = *job.move;
  move.rounds.began = now_;
  move.deadline = now_ + config_.stage_timeout_ms;
  move.rounds.step = Rounds::Step::Stage;
  move.rounds.goal = {};
  const bool first = move.rounds.finished == 0 && newest_usable(job) != nullptr;
  if (first || move.pinned.value != 0) return;
  move.rounds.step = Rounds::Step::Checkpoint;
  if (job.checkpoint_asked || !find(job.r.current->node)->reachable()) return;
  job.checkpoint_asked = true;
  out(TakeCheckpoint{job.r.current->node, job.id(), job.r.current->generation});
}

// What is left after the last round takes about as long as that did; then it is restored. 0: there
// was no round to tell.
double Cluster::Impl::expected_downtime_ms(const Job& job) const {
  const Rounds& rounds = job.move->rounds;
  return rounds.finished == 0 ? 0 : static_cast<double>(rounds.last_ms) + job.restore_ms;
}

void Cluster::Impl::round_over(Job& job) {
  Move& move = *job.move;
  Rounds& rounds = move.rounds;
  const TimeMs before_ms = std::exchange(rounds.last_ms, now_ - rounds.began);
  ++rounds.finished;
  const bool second = rounds.finished == 1 && move.pinned.value == 0;
  const bool short_enough = move.max_downtime_ms != 0
                                ? expected_downtime_ms(job) <= move.max_downtime_ms
                                : rounds.last_ms <= TimeMs{config_.stage_short_ms};
  const std::uint32_t most = config_.stage_rounds * (move.max_downtime_ms != 0 ? 4 : 1);
  // What comes after the next round takes as long again.
  const bool in_time = !move.give_up_at || now_ + 2 * rounds.last_ms < *move.give_up_at;
  const bool stuck = rounds.finished > 2 && static_cast<double>(rounds.last_ms) >
                                                kWorthIt * static_cast<double>(before_ms);
  const bool more =
      in_time &&
      (second || (move.pinned.value == 0 && !short_enough && !stuck && rounds.finished < most));
  rounds.step = more ? Rounds::Step::Idle : Rounds::Step::Done;
  move.deadline.reset();
}

// ------------------------------------------------------------------ standbys

bool Cluster::Impl::may_stand_by(const Job& job, const NodeId& id) const {
  const Node* node = find(id);
  if (node == nullptr) return false;
  const auto ending = node->ending.lower_bound({job.id(), Generation{}});
  if (ending != node->ending.end() && ending->first == job.id()) return false;  // soon
  return node->reachable() && !node->record.cordoned && !node->record.draining &&
         !node->sample.about_to_fail && job.r.current->node != id;
}

// Processors, disks and the controller's uplink are for the jobs that stand still; but not for
// ever, should nodes be lost all the time.
bool Cluster::Impl::recoveries_come_first() const {
  return !recovering_.empty() && now_ < recovering_since_ + kRecoveriesFirstMs;
}

void Cluster::Impl::drive_standbys() {
  if (recovering_.empty()) {
    recovering_since_ = 0;
    for (const JobId id : std::exchange(held_copies_, {})) {
      if (Job* job = find(id)) job->standby_retry_at = 0;
      driven_.insert(id);
    }
  }
  for (const JobId id : std::exchange(driven_, {})) {
    Job* job = find(id);
    if (job == nullptr || has_ended(job->r.state)) continue;
    drive_standby(*job);
    note_deadline(*job);
  }
}

void Cluster::Impl::look_for_standbys(const Node& node) {
  for (auto& [id, job] : jobs_) {
    if (job.standby.value.empty()) job.standby_retry_at = 0;
    if (job.standby.value.empty() || job.standby == node.id()) mark(job);
  }
}

// Of a job that runs and is not moving. During a move or a recovery all copies stay: they may help.
void Cluster::Impl::drive_standby(Job& job) {
  if (!job.r.current || job.move || job.r.desired_stop || job.end_current) return;
  if (!job.standby.value.empty() && !may_stand_by(job, job.standby)) job.standby = {};
  std::vector<NodeId> others;
  for (const auto& [id, staged] : job.staged) {
    if (id != job.standby) others.push_back(id);
  }
  for (const NodeId& id : others) unstage(job, id);
  if (!job.r.policy.standby || job.standby_retry_at > now_) return;
  const CheckpointFacts* newest = newest_usable(job);
  if (newest == nullptr || newest->damaged) return;
  if (recoveries_come_first()) {
    job.standby_retry_at = recovering_since_ + kRecoveriesFirstMs;
    held_copies_.insert(job.id());
    return;
  }
  held_copies_.erase(job.id());
  if (job.standby.value.empty()) {
    // A copy needs no processor: an overloaded node is better than none.
    PlacementRequest request = wish(job, Urgency::Rescue, {}, newest);
    for (const auto& [id, node] : nodes_) {
      if (!may_stand_by(job, id)) request.excluded[id] = "may not stand by";
    }
    for (const NodeId& id : job.standby_excluded) request.excluded[id] = "could not keep a copy";
    const Placement placement = place_job(request);
    if (!placement.node) {
      job.standby_excluded.clear();
      job.standby_retry_at = now_ + config_.standby_retry_ms;
      return;
    }
    job.standby = *placement.node;
  }
  const Staged& staged = job.staged[job.standby];
  if (staged.asked.value == 0 && staged.ready != newest->number) {
    stage(job, job.standby, newest->number);
  }
}

// ------------------------------------------------------------------ orders and answers

void Cluster::Impl::stage(Job& job, const NodeId& id, CheckpointNumber number) {
  job.staged[id].asked = number;
  out(StageCheckpoint{id, job.id(), number, job.move && job.move->to == id && may_take_time(job)});
}

// A move that is in no hurry freezes the job when all is ready for it.
bool Cluster::Impl::may_take_time(const Job& job) const {
  const Node* source = job.r.current ? find(job.r.current->node) : nullptr;
  return (job.move->cause == Cause::User || job.move->cause == Cause::Drain) &&
         !job.move->give_up_at && source != nullptr && !source->sample.about_to_fail;
}

void Cluster::Impl::unstage(Job& job, NodeId id) {
  job.staged.erase(id);
  if (job.standby == id) job.standby = {};
  if (Node* node = find(id)) tell_to_drop(*node, job.id());
}

void Cluster::Impl::unstage_all(Job& job) {
  while (!job.staged.empty()) unstage(job, job.staged.begin()->first);
}

void Cluster::Impl::tell_to_drop(Node& node, JobId job) {
  if (!node.reachable() || !node.dropping.insert(job).second) return;
  out(StageCheckpoint{node.id(), job, {}});
}

void Cluster::Impl::stage_done(const OrderDone& done) {
  Node* node = find(done.node);
  if (done.checkpoint.value == 0) {
    if (node != nullptr) node->dropping.erase(done.job);
    return;
  }
  Job* job = find(done.job);
  if (job == nullptr) return;
  const auto found = job->staged.find(done.node);
  if (found == job->staged.end() || found->second.asked != done.checkpoint) return;
  found->second.asked = {};
  mark(*job);
  const bool moving =
      job->move && job->move->to == done.node && job->move->rounds.step == Rounds::Step::Stage;
  if (done.failure == FailureKind::None) {
    const bool first = found->second.ready.value == 0;
    found->second.ready = done.checkpoint;
    if (moving) {
      Rounds& rounds = job->move->rounds;
      rounds.began = std::min(now_, rounds.began + static_cast<TimeMs>(done.memory_ms));
      const TimeMs took_ms = now_ - job->move->rounds.began;
      const std::string expected = job->restore_ms > 0
                                       ? fmt::format("; expected downtime {:.0f} ms",
                                                     static_cast<double>(took_ms) + job->restore_ms)
                                       : std::string();
      tell(event::kStaged, job, done.node,
           fmt::format("{}: round {}: {} of checkpoint {} brought to {} in {} ms{}", job->name(),
                       job->move->rounds.finished + 1, mebibytes(done.fetched_bytes),
                       done.checkpoint.value, done.node, took_ms, expected),
           done.checkpoint);
    } else if (first && job->standby == done.node) {
      tell(event::kStaged, job, done.node,
           fmt::format("{}: {} stands by with its newest checkpoint", job->name(), done.node),
           done.checkpoint);
    }
    return;
  }
  const std::string error = with_kind(done.failure, done.error);
  if (moving) job->move->rounds.step = Rounds::Step::Done;
  if (job->standby != done.node) return;
  tell(event::kStaged, job, done.node,
       fmt::format("{}: {} can't stand by: {}", job->name(), done.node, error), done.checkpoint);
  job->standby_excluded.insert(done.node);
  job->standby_retry_at =
      now_ + backoff_ms(static_cast<std::uint32_t>(job->standby_excluded.size()));
  if (!job->move) unstage(*job, done.node);
}

void Cluster::Impl::staging_node_gone(Job& job, const NodeId& id) {
  if (job.staged.erase(id) != 0) mark(job);
  if (job.standby == id) job.standby = {};
  const bool unsent = job.move && job.move->planned && !job.move->freeze_sent && !job.r.attempt;
  if (unsent && job.move->to == id) {
    job.move->to = {};
    mark(job);
  }
}

void Cluster::Impl::staged_reported(Node& node, const std::vector<StagedReport>& reports,
                                    bool registering) {
  std::set<JobId> listed;
  for (const StagedReport& report : reports) {
    listed.insert(report.job);
    Job* job = find(report.job);
    const bool lives = job != nullptr && !has_ended(job->r.state);
    const auto known = lives ? job->staged.find(node.id()) : decltype(job->staged.end()){};
    if (lives && known != job->staged.end()) {
      if (registering) known->second = {.asked = {}, .ready = report.checkpoint};
    } else if (lives && registering && job->r.policy.standby && job->standby.value.empty() &&
               job->r.current && may_stand_by(*job, node.id())) {
      job->standby = node.id();
      job->staged[node.id()] = {.asked = {}, .ready = report.checkpoint};
    } else {
      tell_to_drop(node, report.job);
    }
  }
  if (!registering) return;
  for (auto& [id, job] : jobs_) {
    if (has_ended(job.r.state)) continue;
    if (job.standby.value.empty()) job.standby_retry_at = 0;
    if (const auto own = job.staged.find(node.id());
        own != job.staged.end() && !listed.contains(id)) {
      own->second = {};
    }
    mark(job);
  }
}

}  // namespace baton::core
