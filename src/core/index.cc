// What each input would else have to look at every job and every node for. A heartbeat of one node
// costs what that node's jobs cost, however many others there are.
#include <algorithm>
#include <limits>

#include "core/impl.h"

namespace baton::core {
namespace {

template <typename Visitor>
void for_each_deadline(const Job& job, Visitor&& visit) {
  if (has_ended(job.r.state)) return;
  if (job.stop_kill_at) visit(*job.stop_kill_at);
  if (job.finish_at) visit(*job.finish_at);
  if (job.move && job.move->deadline) visit(*job.move->deadline);
  if (job.move && job.move->give_up_at) visit(*job.move->give_up_at);
  visit(job.retry_at);
  visit(job.kill_again_at);
  visit(job.standby_retry_at);
}

// Replaces one of the two places where a job may live.
template <typename Record>
void relocate(std::map<NodeId, Node>& nodes, Job& job, std::optional<Record>& place,
              std::optional<Record> to) {
  const auto left = std::exchange(place, std::move(to));
  auto note = [&](const NodeId& id) {
    const auto node = nodes.find(id);
    if (node == nodes.end()) return;
    if (job.lives_on(id)) {
      node->second.jobs.insert(job.id());
    } else {
      node->second.jobs.erase(job.id());
    }
  };
  if (left) note(left->node);
  if (place) note(place->node);
}

}  // namespace

void Cluster::Impl::set_current(Job& job, std::optional<IncarnationRecord> current) {
  relocate(nodes_, job, job.r.current, std::move(current));
}

void Cluster::Impl::set_attempt(Job& job, std::optional<AttemptRecord> attempt) {
  relocate(nodes_, job, job.r.attempt, std::move(attempt));
  note_recovery(job);
}

void Cluster::Impl::note_recovery(const Job& job) {
  if (!job.r.attempt || !job.move || job.move->cause != Cause::NodeLost) {
    recovering_.erase(job.id());
    return;
  }
  if (recovering_since_ == 0) recovering_since_ = now_;
  recovering_.insert(job.id());
}

Job& Cluster::Impl::add(Job job) {
  const JobId id = job.id();
  names_.emplace(job.name(), id);
  return jobs_.emplace(id, std::move(job)).first->second;
}

void Cluster::Impl::remove(JobId id) {
  const auto found = jobs_.find(id);
  if (found == jobs_.end()) return;
  job_deadlines_.erase({found->second.noted_deadline, id});
  held_copies_.erase(id);
  waiting_.erase(id);
  if (const auto name = names_.find(found->second.name());
      name != names_.end() && name->second == id) {
    names_.erase(name);
  }
  jobs_.erase(found);
}

void Cluster::Impl::note_deadline(Job& job) {
  if (job.waiting) {
    waiting_.insert(job.id());
  } else {
    waiting_.erase(job.id());
  }
  TimeMs next = 0;
  for_each_deadline(job, [&](TimeMs at) {
    if (at > now_ && (next == 0 || at < next)) next = at;
  });
  if (next == job.noted_deadline) return;
  if (job.noted_deadline != 0) job_deadlines_.erase({job.noted_deadline, job.id()});
  if (next != 0) job_deadlines_.emplace(next, job.id());
  job.noted_deadline = next;
}

void Cluster::Impl::set_lease_end(Node& node, TimeMs end) {
  lease_ends_.erase({node.lease_end, node.id()});
  node.lease_end = end;
  if (!node.record.lost) lease_ends_.emplace(end, node.id());
}

void Cluster::Impl::set_drain_end(Node& node, std::optional<TimeMs> end) {
  if (node.drain_until) drain_ends_.erase({*node.drain_until, node.id()});
  node.drain_until = end;
  if (end) drain_ends_.emplace(*end, node.id());
}

std::uint32_t Cluster::Impl::jobs_on(const NodeId& id) const {
  const Node* node = find(id);
  return node == nullptr ? 0 : static_cast<std::uint32_t>(node->jobs.size());
}

void Cluster::Impl::advance() {
  std::set<NodeId> lapsed;
  while (!lease_ends_.empty() && lease_ends_.begin()->first <= now_) {
    lapsed.insert(lease_ends_.begin()->second);
    lease_ends_.erase(lease_ends_.begin());
  }
  for (const NodeId& id : lapsed) node_lost(nodes_.at(id));
  while (!drain_ends_.empty() && drain_ends_.begin()->first <= now_)
    drain_is_over(nodes_.at(drain_ends_.begin()->second));
  while (!job_deadlines_.empty() && job_deadlines_.begin()->first <= now_) {
    Job& job = jobs_.at(job_deadlines_.begin()->second);
    job_deadlines_.erase(job_deadlines_.begin());
    job.noted_deadline = 0;
    mark(job);
  }
}

TimeMs Cluster::Impl::next_deadline() const {
  TimeMs next = std::numeric_limits<TimeMs>::max();
  if (!lease_ends_.empty()) next = std::min(next, lease_ends_.begin()->first);
  if (!drain_ends_.empty()) next = std::min(next, drain_ends_.begin()->first);
  if (!job_deadlines_.empty()) next = std::min(next, job_deadlines_.begin()->first);
  return next;
}

}  // namespace baton::core
