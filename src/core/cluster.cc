#include "core/cluster.h"

#include <algorithm>
#include <cmath>

#include "core/impl.h"

namespace baton::core {
namespace {

constexpr TimeMs kHeartbeatsPerLease = 5;
constexpr std::size_t kWaitingAtOnce = 32;
// A node from which this many heartbeats are missing is shown as quiet.
constexpr std::uint32_t kQuietHeartbeats = 3;
constexpr TimeMs kDefaultGraceMs = 10'000;

}  // namespace

Cluster::Impl::Impl(Config config, std::vector<JobRecord> jobs, std::vector<NodeRecord> nodes,
                    TimeMs now)
    : config_(std::move(config)), now_(now) {
  auto adopt_node = [&](NodeRecord record) {
    const NodeId id = record.facts.id;
    Node& node = nodes_[id];
    node.record = std::move(record);
    node.last_heard = now;
    set_lease_end(node, now + lease_term());
  };
  for (NodeRecord& record : nodes) adopt_node(std::move(record));
  for (JobRecord& record : jobs) {
    Job loaded;
    loaded.r = std::move(record);
    Job& job = add(std::move(loaded));
    job.ever_ran = job.r.state != JobState::Pending && job.r.state != JobState::Starting;
    job.arrived_at = now;
    std::ranges::sort(job.r.checkpoints, {}, &CheckpointFacts::number);
    if (has_ended(job.r.state)) continue;
    // A node nobody saved may still run something: give it the grace of the others.
    for (const NodeId* id : {job.r.current ? &job.r.current->node : nullptr,
                             job.r.attempt ? &job.r.attempt->node : nullptr}) {
      if (id == nullptr) continue;
      if (!nodes_.contains(*id)) adopt_node({.facts = {.id = *id}});
      nodes_.at(*id).jobs.insert(job.id());
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
    note_recovery(job);
    if (job.r.desired_stop) job.stop_kill_at = now + kDefaultGraceMs;
    note_deadline(job);
    mark(job);
  }
}

std::vector<Output> Cluster::Impl::apply(const Input& input, TimeMs now) {
  now_ = std::max(now_, now);
  advance();
  settle();
  std::visit([this](const auto& what) { on(what); }, input);
  settle();

  for (JobId id : forgotten_) remove(id);
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

void Cluster::Impl::settle() {
  while (!marked_.empty()) {
    const JobId id = *marked_.begin();
    marked_.erase(marked_.begin());
    if (Job* job = find(id)) {
      drive(*job);
      note_deadline(*job);
      driven_.insert(id);
    }
    // When it is known which recoveries there are.
    if (marked_.empty()) drive_standbys();
  }
}

void Cluster::Impl::mark_waiting() { marked_.insert(waiting_.begin(), waiting_.end()); }

// Another node's figures are a reason to look, but not for each job at each of many heartbeats:
// some jobs in turn, once in the time in which one node sends one, and more as long as it helps.
void Cluster::Impl::look_at_waiting() {
  if (now_ - waiting_looked_at_ < TimeMs{config_.lease_ms} / kHeartbeatsPerLease) return;
  waiting_looked_at_ = now_;
  const std::size_t all = waiting_.size();
  for (std::size_t looked_at = 0; looked_at < all && !waiting_.empty();) {
    std::vector<JobId> some;
    for (; some.size() < kWaitingAtOnce && looked_at < all; ++looked_at) {
      auto next = waiting_.upper_bound(last_waiting_);
      if (next == waiting_.end()) next = waiting_.begin();
      some.push_back(last_waiting_ = *next);
    }
    marked_.insert(some.begin(), some.end());
    settle();
    if (std::ranges::all_of(some, [this](JobId id) { return waiting_.contains(id); })) return;
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

TimeMs Cluster::lease_term(const Config& config) {
  return static_cast<TimeMs>(std::ceil(config.lease_ms * (1 + 2 * config.clock_rate_error))) +
         config.fence_margin_ms;
}

TimeMs Cluster::Impl::lease_term() const {
  if (planted(Bug::SkipFenceMargin)) return config_.lease_ms;
  return Cluster::lease_term(config_);
}

NodeState Cluster::Impl::state_of(const Node& node, TimeMs now) const {
  if (node.record.lost) return NodeState::Lost;
  if (node.epoch.empty()) return NodeState::Quiet;
  const TimeMs quiet_after = TimeMs{config_.lease_ms} * kQuietHeartbeats / kHeartbeatsPerLease;
  return now - node.last_heard > quiet_after ? NodeState::Quiet : NodeState::Up;
}

std::vector<Candidate> Cluster::Impl::candidates() const {
  std::vector<Candidate> result;
  result.reserve(nodes_.size());
  for (const auto& [id, node] : nodes_) {
    result.push_back({.facts = node.record.facts,
                      .sample = node.sample,
                      .state = state_of(node, now_),
                      .cordoned = node.record.cordoned,
                      .draining = node.record.draining,
                      .overloaded = node.watch.fired(),
                      .job_count = static_cast<std::uint32_t>(node.jobs.size())});
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
  const auto found = impl_->names_.find(name);
  return found != impl_->names_.end() ? find_job(found->second) : nullptr;
}

std::vector<const JobRecord*> Cluster::jobs() const {
  std::vector<const JobRecord*> result;
  for (const auto& [id, job] : impl_->jobs_) result.push_back(&job.r);
  return result;
}

const JobRecord* Cluster::next_job(JobId after) const {
  const auto next = impl_->jobs_.upper_bound(after);
  return next != impl_->jobs_.end() ? &next->second.r : nullptr;
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
  BATON_TRY(PlacementRequest request, impl_->migration(id, to));
  request.tell_others = true;
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
