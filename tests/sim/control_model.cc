#include "control_model.h"

#include <algorithm>

namespace baton::sim {
namespace {

template <typename T>
core::RequestId request_of(const T& input) {
  if constexpr (requires { input.request; }) return input.request;
  return 0;
}

constexpr bool is_move(const core::Input& input) {
  return std::holds_alternative<core::UserMigrate>(input) ||
         std::holds_alternative<core::UserRestore>(input);
}

}  // namespace

ControlModel::ControlModel(Kernel& kernel, World& world, core::Config config)
    : kernel_(kernel), world_(world), config_(std::move(config)) {}

void ControlModel::start() {
  std::vector<core::JobRecord> jobs;
  for (auto& [id, record] : saved_jobs_) {
    record.checkpoints.clear();
    for (const auto& [number, stored] : world_.checkpoints[id])
      record.checkpoints.push_back(stored.facts);
    outputs_[id].writer = record.output_generation;
    jobs.push_back(record);
  }
  std::vector<core::NodeRecord> nodes;
  for (auto& [id, record] : saved_nodes_) nodes.push_back(record);
  ++life_;
  kernel_.trace("controller starts");
  cluster_.emplace(config_, std::move(jobs), std::move(nodes), now_ms());
  apply(core::Tick{});
}

// The core keeps these up to date by itself; here they are counted.
void ControlModel::check_counts() {
  std::map<NodeId, std::uint32_t> counts;
  for (const core::JobRecord* job : cluster_->jobs()) {
    std::set<NodeId> homes;
    if (job->current) homes.insert(job->current->node);
    if (job->attempt) homes.insert(job->attempt->node);
    for (const NodeId& home : homes) ++counts[home];
  }
  for (const core::NodeView& node : cluster_->nodes(now_ms()))
    if (node.job_count != counts[node.record.facts.id])
      kernel_.fail("jobs are miscounted on " + node.record.facts.id.value);
}

void ControlModel::crash() {
  kernel_.trace("controller crashes");
  cluster_.reset();
  orders_.clear();
  streams_.clear();
  epochs_.clear();
  awaiting_reply_.clear();
  awaiting_move_.clear();
}

void ControlModel::apply(const core::Input& input) {
  if (!up()) return;
  if (const auto request = std::visit([](const auto& i) { return request_of(i); }, input)) {
    awaiting_reply_.insert(request);
    if (is_move(input)) awaiting_move_.insert(request);
  }
  const auto outputs = cluster_->apply(input, now_ms());
  if (outputs.size() > 1000) kernel_.fail("one input made more than 1000 outputs");
  check_counts();
  // As in the real one: records and quarantine in one transaction, then everything else.
  for (const core::Output& output : outputs) {
    if (const auto* save = std::get_if<core::SaveJob>(&output)) {
      saved_jobs_[save->job] = *cluster_->find_job(save->job);
    } else if (const auto* node = std::get_if<core::SaveNode>(&output)) {
      saved_nodes_[node->node] = *cluster_->find_node(node->node);
    } else if (const auto* forget = std::get_if<core::ForgetJob>(&output)) {
      saved_jobs_.erase(forget->job);
      world_.checkpoints.erase(forget->job);
    } else if (const auto* bad = std::get_if<core::QuarantineCheckpoint>(&output)) {
      world_.checkpoints[bad->job][bad->number].facts.quarantined = true;
      ++quarantined;
    }
  }
  if (world_.weather.faults && outputs.size() > 3 && kernel_.rng.chance(0.002)) {
    crash();
    kernel_.after(kernel_.rng.between(100 * kMs, 6 * kSecond), [this] {
      if (!up()) start();
    });
    return;
  }
  for (const core::Output& output : outputs) execute(output);
  if (!awaiting_reply_.empty()) kernel_.fail("a user's input was not answered");
  schedule_tick();
}

void ControlModel::schedule_tick() {
  const core::TimeMs next = cluster_->next_deadline();
  if (next <= now_ms()) kernel_.fail("the next deadline is in the past");
  if (next > now_ms() + 3'600'000) return;
  const TimeUs at = next * kMs;
  if (tick_at_ > kernel_.now() && tick_at_ <= at) return;
  tick_at_ = at;
  kernel_.at(at, [this, at, life = life_] {
    if (life != life_ || !up() || tick_at_ != at) return;
    tick_at_ = 0;
    apply(core::Tick{});
  });
}

void ControlModel::order(const NodeId& node, const core::Output& output) {
  PendingOrder pending{++last_order_ + (life_ << 32), output};
  orders_[node].push_back(pending);
  if (auto stream = streams_.find(node);
      stream != streams_.end() && stream->second.epoch == epochs_[node]) {
    stream->second.deliver(pending);
  }
}

void ControlModel::execute(const core::Output& output) {
  std::visit(
      [&](const auto& what) {
        using T = std::decay_t<decltype(what)>;
        if constexpr (std::is_same_v<T, core::StartIncarnation> ||
                      std::is_same_v<T, core::RestoreIncarnation>) {
          world_.launched(what.job, what.generation);
          kernel_.trace(fmt::format("order launch job {} gen {} on {}", what.job.value,
                                    what.generation.value, what.node.value));
        }
        if constexpr (std::is_same_v<T, core::DropOrders>) {
          orders_[what.node].clear();
        } else if constexpr (std::is_same_v<T, core::StageCheckpoint>) {
          order(what.node, output);
        } else if constexpr (requires {
                               what.generation;
                               what.node;
                             }) {
          order(what.node, output);
        } else if constexpr (std::is_same_v<T, core::RollBackOutput>) {
          outputs_[what.job].content.truncate(
              std::min(what.bytes, outputs_[what.job].content.size()));
          outputs_[what.job].writer = what.generation;
        } else if constexpr (std::is_same_v<T, core::AnswerRegister>) {
          register_answer_ = what;
        } else if constexpr (std::is_same_v<T, core::AnswerHeartbeat>) {
          heartbeat_answer_ = what;
        } else if constexpr (std::is_same_v<T, core::ForgetJob>) {
          outputs_.erase(what.job);
        } else if constexpr (std::is_same_v<T, core::Reply>) {
          if (awaiting_reply_.erase(what.request) != 1) kernel_.fail("a reply to nobody");
          if (!what.status) awaiting_move_.erase(what.request);
          if (!what.status) kernel_.trace("user: " + what.status.error().message());
        } else if constexpr (std::is_same_v<T, core::MoveFinished>) {
          ++(what.timing.ok ? moves_finished : moves_failed);
          if (what.timing.ok) ++moves_by_cause[what.timing.cause];
          for (core::RequestId request : what.requests) {
            if (awaiting_move_.erase(request) != 1) kernel_.fail("a move finished twice");
          }
          const core::MoveTiming& t = what.timing;
          if (t.detect_ms < 0 || t.decide_ms < 0 || t.stage_ms < 0 || t.transfer_ms < 0 ||
              t.downtime_ms < 0) {
            kernel_.fail("a move with a negative time");
          }
        } else if constexpr (std::is_same_v<T, core::EmitEvent>) {
          kernel_.trace(fmt::format("EVENT {}: {}", what.kind, what.text));
        }
      },
      output);
}

std::optional<core::AnswerRegister> ControlModel::on_register(const core::NodeRegistered& input) {
  if (!up()) return std::nullopt;
  register_answer_.reset();
  streams_.erase(input.facts.id);
  kernel_.trace(fmt::format("register {} epoch {} with {}", input.facts.id.value, input.epoch,
                            input.incarnations.size()));
  // Before the outputs are executed: orders must find the new epoch.
  const std::string before = epochs_[input.facts.id];
  epochs_[input.facts.id] = input.epoch;
  apply(input);
  if (!up()) return std::nullopt;
  if (register_answer_ && !register_answer_->refused.empty()) epochs_[input.facts.id] = before;
  return register_answer_;
}

std::optional<core::AnswerHeartbeat> ControlModel::on_heartbeat(const core::Heartbeat& input) {
  heartbeat_answer_.reset();
  apply(input);
  return up() ? heartbeat_answer_ : std::nullopt;
}

std::optional<CheckpointNumber> ControlModel::on_upload(JobId job, Generation generation,
                                                        std::uint64_t upload_id,
                                                        const Output& output, bool hold) {
  if (!up()) return std::nullopt;
  if (auto it = uploads_.find(upload_id); it != uploads_.end()) return it->second;
  if (cluster_->standing(job, generation) != core::Standing::Current) return CheckpointNumber{};
  const CheckpointNumber number{++last_checkpoint_[job]};
  uploads_[upload_id] = number;
  StoredCheckpoint stored{.facts = {.number = number, .output_bytes = output.size()},
                          .output = output,
                          .damaged = kernel_.rng.chance(world_.weather.damage)};
  world_.checkpoints[job][number] = stored;
  apply(core::CheckpointCommitted{job, generation, stored.facts, hold});
  if (!up()) return std::nullopt;
  // Retention: the newest three and whatever is in use.
  auto& all = world_.checkpoints[job];
  while (all.size() > 3) {
    auto oldest = std::ranges::find_if(
        all, [&](const auto& entry) { return !cluster_->checkpoint_in_use(job, entry.first); });
    if (oldest == all.end() || oldest->first == number) break;
    const CheckpointNumber removed = oldest->first;
    all.erase(oldest);
    apply(core::CheckpointRemoved{job, removed});
    if (!up()) return std::nullopt;
  }
  return number;
}

bool ControlModel::on_output(JobId job, Generation generation, const Output& output) {
  if (!up()) return false;
  auto it = outputs_.find(job);
  if (it == outputs_.end() || it->second.writer != generation) return true;
  it->second.content.extend_from(output);
  return true;
}

bool ControlModel::on_exit(const core::IncarnationExited& input, const Output& output) {
  if (!up()) return false;
  on_output(input.job, input.generation, output);
  const bool was_current =
      cluster_->standing(input.job, input.generation) == core::Standing::Current;
  apply(input);
  if (!up()) return false;
  if (was_current && input.cause == core::ExitCause::Exited && outputs_.contains(input.job) &&
      core::has_ended(saved_jobs_[input.job].state) && outputs_[input.job].content != output) {
    kernel_.fail(fmt::format("job {} printed [{}], the log has [{}]", input.job.value,
                             output.describe(), outputs_[input.job].content.describe()));
  }
  return true;
}

bool ControlModel::on_report(const core::CheckpointReported& input) {
  apply(input);
  return up();
}

void ControlModel::on_result(std::uint64_t order_id, core::OrderDone done) {
  if (!up()) return;
  auto& pending = orders_[done.node];
  auto it = std::ranges::find(pending, order_id, &PendingOrder::id);
  if (it == pending.end()) return;
  pending.erase(it);
  kernel_.trace(fmt::format("result {} job {} gen {} on {}: {}", core::to_string(done.kind),
                            done.job.value, done.generation.value, done.node.value,
                            core::to_string(done.failure)));
  apply(done);
}

bool ControlModel::attached(const NodeId& node, std::uint64_t stream) const {
  auto it = streams_.find(node);
  return it != streams_.end() && it->second.id == stream;
}

bool ControlModel::attach(const NodeId& node, const std::string& epoch, std::uint64_t stream,
                          std::function<void(const PendingOrder&)> deliver) {
  if (!up() || epochs_[node] != epoch) return false;
  streams_[node] = {epoch, stream, deliver};
  const auto pending = orders_[node];
  for (const PendingOrder& order : pending) deliver(order);
  return true;
}

void ControlModel::detach(const NodeId& node) { streams_.erase(node); }

void ControlModel::submit(core::JobRecord record) {
  apply(core::SubmitJob{next_request(), std::move(record)});
}

}  // namespace baton::sim
