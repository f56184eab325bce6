#include "core/cluster.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/impl.h"

namespace baton::core {
namespace {

constexpr TimeMs kNever = std::numeric_limits<TimeMs>::max();
// Heartbeats come each lease/5; a node from which this many are missing is shown as quiet.
constexpr std::uint32_t kQuietHeartbeats = 3;
constexpr TimeMs kDefaultGraceMs = 10'000;

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

}  // namespace

Cluster::Impl::Impl(Config config, std::vector<JobRecord> jobs, std::vector<NodeRecord> nodes,
                    TimeMs now)
    : config_(std::move(config)), now_(now), advanced_to_(now) {
  auto adopt_node = [&](NodeRecord record) {
    const NodeId id = record.facts.id;
    Node& node = nodes_[id];
    node.record = std::move(record);
    node.last_heard = now;
    node.lease_end = now + lease_term();
  };
  for (NodeRecord& record : nodes) adopt_node(std::move(record));
  for (JobRecord& record : jobs) {
    Job& job = jobs_[record.id];
    job.r = std::move(record);
    job.ever_ran = job.r.state != JobState::Pending && job.r.state != JobState::Starting;
    job.arrived_at = now;
    std::ranges::sort(job.r.checkpoints, {}, &CheckpointFacts::number);
    if (has_ended(job.r.state)) continue;
    // A node nobody saved may still run something: give it the grace of the others.
    for (const NodeId* id : {job.r.current ? &job.r.current->node : nullptr,
                             job.r.attempt ? &job.r.attempt->node : nullptr}) {
      if (id != nullptr && !nodes_.contains(*id)) adopt_node({.facts = {.id = *id}});
    }
    const bool recovering = !job.r.current && job.ever_ran;
    if ((job.r.current && job.r.attempt) || recovering) {
      Move& move = job.move.emplace();
      move.planned = job.r.current.has_value();
      move.cause = job.r.attempt ? job.r.attempt->cause : Cause::NodeLost;
      if (job.r.current) move.from = job.r.current->node;
      if (job.r.attempt) move.to = job.r.attempt->node;
      move.why = "that was under way when the controller restarted";
      move.freeze_sent = true;
      move.fired_at = now;
    }
    if (job.r.attempt && job.move) job.move->deadline = now + config_.restore_timeout_ms;
    if (job.r.desired_stop) job.stop_kill_at = now + kDefaultGraceMs;
    mark(job);
  }
}

std::vector<Output> Cluster::Impl::apply(const Input& input, TimeMs now) {
  now_ = std::max(now_, now);
  advance();
  settle();
  std::visit([this](const auto& what) { on(what); }, input);
  settle();

  for (JobId id : forgotten_) jobs_.erase(id);
  forgotten_.clear();
  std::vector<Output> result;
  for (JobId id : saved_jobs_) {
    if (jobs_.contains(id)) result.push_back(SaveJob{id});
  }
  for (const NodeId& id : saved_nodes_) result.push_back(SaveNode{id});
  std::ranges::move(outputs_, std::back_inserter(result));
  outputs_.clear();
  saved_jobs_.clear();
  saved_nodes_.clear();
  return result;
}

void Cluster::Impl::advance() {
  for (auto& [id, node] : nodes_) {
    if (!node.record.lost && node.lease_end <= now_) node_lost(node);
    if (node.drain_until && *node.drain_until <= now_) drain_is_over(node);
  }
  for (auto& [id, job] : jobs_) {
    for_each_deadline(job, [&](TimeMs at) {
      if (at > advanced_to_ && at <= now_) mark(job);
    });
  }
  advanced_to_ = now_;
}

void Cluster::Impl::settle() {
  while (!marked_.empty()) {
    const JobId id = *marked_.begin();
    marked_.erase(marked_.begin());
    if (Job* job = find(id)) drive(*job);
  }
}

TimeMs Cluster::Impl::next_deadline() const {
  TimeMs next = kNever;
  auto consider = [&](TimeMs at) {
    if (at > now_) next = std::min(next, at);
  };
  for (const auto& [id, node] : nodes_) {
    if (!node.record.lost) consider(node.lease_end);
    if (node.drain_until) consider(*node.drain_until);
  }
  for (const auto& [id, job] : jobs_) for_each_deadline(job, consider);
  return next;
}

void Cluster::Impl::mark_waiting() {
  for (auto& [id, job] : jobs_) {
    if (job.waiting) mark(job);
  }
}

void Cluster::Impl::reply(RequestId request, Status status) {
  out(Reply{request, std::move(status)});
}

void Cluster::Impl::tell(const char* kind, const Job* job, const NodeId& node, std::string text,
                         CheckpointNumber checkpoint) {
  out(EmitEvent{kind, job != nullptr ? job->id() : JobId{}, node, std::move(text), std::nullopt,
                checkpoint});
}

Job* Cluster::Impl::find(JobId id) {
  auto it = jobs_.find(id);
  return it == jobs_.end() ? nullptr : &it->second;
}

Node* Cluster::Impl::find(const NodeId& id) {
  auto it = nodes_.find(id);
  return it == nodes_.end() ? nullptr : &it->second;
}

const Node* Cluster::Impl::find(const NodeId& id) const {
  auto it = nodes_.find(id);
  return it == nodes_.end() ? nullptr : &it->second;
}

TimeMs Cluster::Impl::lease_term() const {
  if (planted(Bug::SkipFenceMargin)) return config_.lease_ms;
  return static_cast<TimeMs>(std::ceil(config_.lease_ms * (1 + 2 * config_.clock_rate_error))) +
         config_.fence_margin_ms;
}

NodeState Cluster::Impl::state_of(const Node& node, TimeMs now) const {
  if (node.record.lost) return NodeState::Lost;
  if (node.epoch.empty()) return NodeState::Quiet;
  const TimeMs quiet_after = TimeMs{config_.lease_ms} * kQuietHeartbeats / 5;
  return now - node.last_heard > quiet_after ? NodeState::Quiet : NodeState::Up;
}

std::uint32_t Cluster::Impl::jobs_on(const NodeId& id) const {
  std::uint32_t count = 0;
  for (const auto& [job_id, job] : jobs_) {
    const bool there = (job.r.current && job.r.current->node == id) ||
                       (job.r.attempt && job.r.attempt->node == id);
    count += there ? 1 : 0;
  }
  return count;
}

std::vector<Candidate> Cluster::Impl::candidates() const {
  std::vector<Candidate> result;
  for (const auto& [id, node] : nodes_) {
    result.push_back({.facts = node.record.facts,
                      .sample = node.sample,
                      .state = state_of(node, now_),
                      .cordoned = node.record.cordoned,
                      .draining = node.record.draining,
                      .overloaded = node.watch.fired(),
                      .job_count = jobs_on(id)});
  }
  return result;
}

// ------------------------------------------------------------------ the public face

Cluster::Cluster(Config config, std::vector<JobRecord> jobs, std::vector<NodeRecord> nodes,
                 TimeMs now)
    : impl_(std::make_unique<Impl>(std::move(config), std::move(jobs), std::move(nodes), now)) {}
Cluster::~Cluster() = default;
Cluster::Cluster(Cluster&&) noexcept = default;
Cluster& Cluster::operator=(Cluster&&) noexcept = default;

std::vector<Output> Cluster::apply(const Input& input, TimeMs now) {
  return impl_->apply(input, now);
}
TimeMs Cluster::next_deadline() const { return impl_->next_deadline(); }
const Config& Cluster::config() const { return impl_->config_; }

const JobRecord* Cluster::find_job(JobId id) const {
  const Job* job = impl_->find(id);
  return job != nullptr ? &job->r : nullptr;
}

const JobRecord* Cluster::find_job(std::string_view name) const {
  for (const auto& [id, job] : impl_->jobs_) {
    if (job.r.name == name) return &job.r;
  }
  return nullptr;
}

std::vector<const JobRecord*> Cluster::jobs() const {
  std::vector<const JobRecord*> result;
  for (const auto& [id, job] : impl_->jobs_) result.push_back(&job.r);
  return result;
}

const NodeRecord* Cluster::find_node(const NodeId& id) const {
  const Node* node = impl_->find(id);
  return node != nullptr ? &node->record : nullptr;
}

std::vector<NodeView> Cluster::nodes(TimeMs now) const {
  std::vector<NodeView> result;
  for (const auto& [id, node] : impl_->nodes_) {
    NodeView view;
    view.record = node.record;
    view.state = impl_->state_of(node, now);
    view.sample = node.sample;
    view.lease_remaining_ms = node.record.lost ? 0 : std::max<TimeMs>(0, node.lease_end - now);
    view.job_count = impl_->jobs_on(id);
    view.overloaded = node.watch.fired();
    if (node.watch.fired()) view.remark = node.watch.describe(impl_->config_.policy, now);
    if (node.sample.about_to_fail)
      view.remark = "about to fail: " + node.sample.about_to_fail_cause;
    result.push_back(std::move(view));
  }
  return result;
}

Result<Placement> Cluster::plan_migration(JobId id, const NodeId& to) const {
  BATON_TRY(const PlacementRequest request, impl_->migration(id, to));
  return impl_->place_job(request);
}

StandbyView Cluster::standby(JobId id) const {
  const Job* job = impl_->find(id);
  if (job == nullptr || job->standby.value.empty()) return {};
  const auto staged = job->staged.find(job->standby);
  return {job->standby, staged == job->staged.end() ? CheckpointNumber{} : staged->second.ready};
}

bool Cluster::may_stage(JobId id, const NodeId& node) const {
  const Job* job = impl_->find(id);
  return job != nullptr && job->staged.contains(node);
}

Standing Cluster::standing(JobId job, Generation generation) const {
  const JobRecord* record = find_job(job);
  if (record == nullptr) return Standing::Stale;
  if (record->current && record->current->generation == generation) return Standing::Current;
  if (record->attempt && record->attempt->generation == generation) return Standing::Attempt;
  return Standing::Stale;
}

bool Cluster::checkpoint_in_use(JobId id, CheckpointNumber number) const {
  const Job* job = impl_->find(id);
  if (job == nullptr) return false;
  if (job->r.attempt && job->r.attempt->from == number) return true;
  if (job->move && job->move->pinned == number) return true;
  for (const auto& [node, staged] : job->staged) {
    if (staged.asked == number) return true;
  }
  const CheckpointFacts* newest = impl_->newest_usable(*job);
  return newest != nullptr && newest->number == number;
}

}  // namespace baton::core
