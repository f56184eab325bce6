// Nodes: leases, registrations, heartbeats, and what their lists say about incarnations.
#include <algorithm>

#include "core/impl.h"

namespace baton::core {
namespace {

// A heartbeat's list may be older than an order's answer that has been handled already, so one
// that lacks an incarnation proves nothing; so many in a row, over a lease's time, are a reason
// to ask (by Kill). A registration's list is newer than all orders the agent will ever execute.
constexpr std::uint32_t kMissingHeartbeats = 3;
// A start's or restore's own answer carries timings: prefer it to the heartbeat that overtook it.
constexpr std::uint32_t kRunningHeartbeats = 2;
constexpr std::size_t kEpochsRemembered = 64;

}  // namespace

void Cluster::Impl::grant_lease(Node& node) {
  node.last_heard = now_;
  set_lease_end(node, now_ + lease_term());
}

void Cluster::Impl::on(const NodeRegistered& input) {
  const NodeId& id = input.facts.id;
  Node& node = nodes_[id];
  const bool known = !node.id().value.empty();
  const bool same_epoch = node.epoch == input.epoch;
  auto refuse = [&](std::string why) {
    out(AnswerRegister{.node = id, .refused = std::move(why)});
  };
  if (node.old_epochs.contains(input.epoch)) {
    return refuse("this agent process has been superseded by a newer one");
  }
  const bool moved_house = known && !input.boot_id.empty() && !node.record.boot_id.empty() &&
                           input.boot_id != node.record.boot_id;
  if (moved_house && !node.record.lost) {
    // A reboot, or another machine with the same name: indistinguishable while the lease runs.
    return refuse(
        fmt::format("{} holds a lease from before its reboot, or another machine has this "
                    "name; it runs out in {} ms",
                    id, node.lease_end - now_));
  }
  const bool came_up = !known || node.record.lost;
  if (!same_epoch && !node.epoch.empty()) {
    if (node.old_epochs.size() >= kEpochsRemembered) node.old_epochs.clear();
    node.old_epochs.insert(node.epoch);
  }
  const bool is_back = known && !came_up && node.epoch.empty();
  const bool restarted = known && !came_up && !same_epoch && !is_back;
  out(DropOrders{id});
  node.ending.clear();
  node.dropping.clear();
  node.epoch = input.epoch;
  node.record.facts = input.facts;
  node.record.boot_id = input.boot_id;
  node.record.lost = false;
  grant_lease(node);
  save(node);
  if (came_up) tell(event::kNodeUp, nullptr, id, fmt::format("{}: registered", id));
  if (is_back) tell(event::kNodeUp, nullptr, id, fmt::format("{}: is back", id));
  if (restarted) tell(event::kNodeUp, nullptr, id, fmt::format("{}: its agent was restarted", id));

  for (auto& [job_id, job] : jobs_) orders_dropped(job, node);
  AnswerRegister answer{.node = id, .refused = {}, .lease_ms = config_.lease_ms, .kill = {}};
  reconcile(node, input.incarnations, true, same_epoch, &answer.kill);
  staged_reported(node, input.staged, true);
  out(std::move(answer));
  mark_waiting();
}

void Cluster::Impl::on(const Heartbeat& input) {
  Node* node = find(input.node);
  if (node == nullptr || !node->reachable() || node->epoch != input.epoch) {
    out(AnswerHeartbeat{input.node, false, 0});
    return;
  }
  grant_lease(*node);
  node->sample = input.sample;
  node->has_sample = true;
  reconcile(*node, input.incarnations, false, true, nullptr);
  staged_reported(*node, input.staged, false);
  out(AnswerHeartbeat{input.node, true, config_.lease_ms});
  settle();
  run_policies(*node);
  look_at_waiting();
}

void Cluster::Impl::node_lost(Node& node) {
  const TimeMs last_sign = node.last_heard;
  node.record.lost = true;
  node.ending.clear();
  node.dropping.clear();
  node.sample = {};
  node.has_sample = false;
  node.watch = {};
  node.overload_told = node.no_target_told = node.about_to_fail_told = false;
  save(node);
  out(DropOrders{node.id()});
  tell(event::kNodeLost, nullptr, node.id(),
       fmt::format("{}: lost: no heartbeat for {:.1f} s, its lease has run out", node.id(),
                   static_cast<double>(now_ - last_sign) / 1000));
  const std::string why = fmt::format("{} was lost", node.id());
  for (auto& [id, job] : jobs_) {
    staging_node_gone(job, node.id());
    if (job.r.attempt && job.r.attempt->node == node.id()) attempt_gone(job, why);
    if (job.r.current && job.r.current->node == node.id()) {
      current_gone(job, Cause::NodeLost, why, last_sign, last_sign);
    }
  }
  mark_waiting();
}

// The node will execute none of the orders it has not answered. What it had begun shows in its
// list.
void Cluster::Impl::orders_dropped(Job& job, const Node& node) {
  if (job.r.current && job.r.current->node == node.id()) {
    if (job.asked == Job::Asked::Freeze && job.move && job.move->failure.empty()) {
      job.move->failure = fmt::format("the agent of {} reconnected meanwhile", node.id());
    }
    job.asked = Job::Asked::Nothing;
    job.term_sent = false;
    job.kill_again_at = 0;
    if (job.checkpoint_asked) {
      finish_checkpoint(job, {}, FailureKind::Internal,
                        fmt::format("the agent of {} reconnected meanwhile", node.id()));
    }
    mark(job);
  }
  if (const auto own = job.staged.find(node.id()); own != job.staged.end()) own->second.asked = {};
  if (job.r.attempt && job.r.attempt->node == node.id()) {
    job.attempt_running_count = 0;
    job.kill_again_at = 0;
    mark(job);
  }
}

bool Cluster::Impl::belongs(const Node& node, const IncarnationReport& report) {
  Job* job = find(report.job);
  if (job == nullptr) return false;
  const JobRecord& r = job->r;
  return (r.current && r.current->node == node.id() &&
          r.current->generation == report.generation) ||
         (r.attempt && r.attempt->node == node.id() && r.attempt->generation == report.generation);
}

void Cluster::Impl::reconcile(Node& node, const std::vector<IncarnationReport>& reports,
                              bool registering, bool same_epoch,
                              std::vector<IncarnationReport>* kill) {
  std::set<IncarnationKey> listed;
  for (const IncarnationReport& report : reports) {
    const IncarnationKey key{report.job, report.generation};
    if (!belongs(node, report)) {
      if (kill != nullptr) {
        kill->push_back(report);
      } else if (node.ending.insert(key).second) {
        out(KillIncarnation{node.id(), report.job, report.generation});
      }
      continue;
    }
    listed.insert(key);
    Job& job = *find(report.job);
    if (job.r.current && job.r.current->generation == report.generation) {
      reported_current(job, report, registering);
    } else {
      reported_attempt(job, report, registering);
    }
  }
  for (JobId id : node.jobs) {
    Job& job = jobs_.at(id);
    const auto& current = job.r.current;
    if (current && current->node == node.id() && !listed.contains({id, current->generation})) {
      not_reported(job, node, registering, same_epoch);
    }
    const auto& attempt = job.r.attempt;
    if (registering && attempt && attempt->node == node.id() && !job.end_attempt &&
        !listed.contains({id, attempt->generation})) {
      job.end_attempt = true;
      job.end_why =
          fmt::format("the agent of {} was restarted before it could start it", node.id());
      mark(job);
    }
  }
}

void Cluster::Impl::reported_current(Job& job, const IncarnationReport& report, bool registering) {
  job.missing_count = 0;
  job.cpu_cores = report.cpu_cores;
  if (job.r.current->state == IncarnationState::Held || job.asked != Job::Asked::Nothing) return;
  const bool held = report.state == IncarnationState::Held;
  // Never believed for safety (the list may be old): only a reason to say "resume" once more.
  if (held != job.stray_held) {
    job.stray_held = held;
    mark(job);
  }
  if (registering) mark(job);
}

void Cluster::Impl::reported_attempt(Job& job, const IncarnationReport& report, bool registering) {
  if (job.end_attempt) return;
  if (report.state != IncarnationState::Running) {
    job.attempt_running_count = 0;
    // Its answer would have gone to a stream that is no more: ask again, which starts nothing new.
    if (registering) send_attempt(job);
    return;
  }
  ++job.attempt_running_count;
  if (registering || job.attempt_running_count >= kRunningHeartbeats) promote(job, nullptr);
}

void Cluster::Impl::not_reported(Job& job, const Node& node, bool registering, bool same_epoch) {
  if (job.end_current || job.finish_at) return;
  if (registering && !same_epoch) {
    job.end_current = true;
  } else if (job.asked == Job::Asked::Nothing) {
    if (job.missing_count++ == 0) job.missing_since = now_;
    job.end_current = job.missing_count >= kMissingHeartbeats &&
                      now_ - job.missing_since >= TimeMs{config_.lease_ms};
  }
  if (!job.end_current) return;
  job.end_cause = Cause::Accident;
  job.end_why = fmt::format("the agent of {} no longer has it", node.id());
  mark(job);
}

}  // namespace baton::core
