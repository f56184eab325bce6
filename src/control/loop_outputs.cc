// How the core's outputs become changes to save and actions that follow.
#include <algorithm>

#include "base/clock.h"
#include "base/log.h"
#include "control/convert.h"
#include "control/loop.h"
#include "control/record_codec.h"

namespace baton::control {
namespace {

constexpr std::size_t kKeptMoves = StateDb::kKeptMovesPerJob;

}  // namespace

// Works under the lock, on the outputs of one apply().
class Loop::Recorder {
 public:
  Recorder(Loop& loop, const core::Input& input, Extra extra) : state_(loop.state_), input_(input) {
    batch_.changes = std::move(extra.changes);
    late_actions_ = std::move(extra.actions);
  }

  void record(const core::Output& output) {
    std::visit([this](const auto& specific) { on(specific); }, output);
  }
  Batch batch() {
    for (auto& action : late_actions_) batch_.actions.push_back(std::move(action));
    return std::move(batch_);
  }
  Applied applied;

 private:
  void on(const core::SaveJob& save) {
    const core::JobRecord* record = state_.core.find_job(save.job);
    auto entry = state_.jobs.find(save.job);
    if (!record || entry == state_.jobs.end()) return;
    bool ended = core::has_ended(record->state);
    if (!ended) entry->second.ended_wall_ms = 0;
    if (ended && entry->second.ended_wall_ms == 0) entry->second.ended_wall_ms = wall_time_ms();
    batch_.changes.jobs.push_back(state_.job_changes(*record, entry->second));
    if (!entry->second.stored) {
      batch_.changes.jobs.back().spec = entry->second.spec.SerializeAsString();
      batch_.changes.next_job_id = state_.next_job_id;
      entry->second.stored = true;
    }
    batch_.actions.push_back(JobChanged{save.job});
  }
  void on(const core::SaveNode& save) {
    const core::NodeRecord* record = state_.core.find_node(save.node);
    if (!record) return;
    batch_.changes.nodes.push_back(
        {save.node, encode_record(*record), state_.node_facts(save.node)->SerializeAsString()});
  }
  void on(const core::ForgetJob& forget) {
    state_.jobs.erase(forget.job);
    batch_.changes.removed_jobs.push_back(forget.job);
    batch_.actions.push_back(JobForgotten{forget.job});
  }
  void on(const core::QuarantineCheckpoint& quarantine) {
    auto entry = state_.jobs.find(quarantine.job);
    if (entry == state_.jobs.end()) return;
    auto found = entry->second.checkpoints.find(quarantine.number);
    if (found == entry->second.checkpoints.end()) return;
    found->second.set_quarantined(true);
    found->second.set_quarantine_cause(quarantine.cause);
    batch_.changes.checkpoints.push_back({quarantine.job, found->second});
  }
  void on(const core::RollBackOutput& roll_back) { batch_.actions.push_back(roll_back); }

  void on(const core::StartIncarnation& start) {
    v1::Order message;
    fill(*message.mutable_start(), start);
    *message.mutable_start()->mutable_spec() = spec(start.job);
    order(start.node, core::OrderKind::Start, start, std::move(message));
  }
  void on(const core::RestoreIncarnation& restore) {
    v1::Order message;
    fill(*message.mutable_restore(), restore);
    *message.mutable_restore()->mutable_spec() = spec(restore.job);
    message.mutable_restore()->set_checkpoint(restore.checkpoint.value);
    order(restore.node, core::OrderKind::Restore, restore, std::move(message));
  }
  void on(const core::FreezeIncarnation& freeze) {
    v1::Order message;
    fill(*message.mutable_freeze(), freeze);
    order(freeze.node, core::OrderKind::Freeze, freeze, std::move(message));
  }
  void on(const core::ReleaseIncarnation& release) {
    v1::Order message;
    fill(*message.mutable_release(), release);
    message.mutable_release()->set_kill(release.kill);
    order(release.node, core::OrderKind::Release, release, std::move(message));
  }
  void on(const core::KillIncarnation& kill) {
    v1::Order message;
    fill(*message.mutable_kill(), kill);
    order(kill.node, core::OrderKind::Kill, kill, std::move(message));
  }
  void on(const core::SignalIncarnation& signal) {
    v1::Order message;
    fill(*message.mutable_signal(), signal);
    message.mutable_signal()->set_signal(signal.signal);
    order(signal.node, core::OrderKind::Signal, signal, std::move(message));
  }
  void on(const core::TakeCheckpoint& take) {
    v1::Order message;
    fill(*message.mutable_checkpoint(), take);
    order(take.node, core::OrderKind::Checkpoint, take, std::move(message));
  }
  void on(const core::StageCheckpoint& stage) {
    PendingOrder pending;
    pending.message.mutable_stage()->set_job_id(stage.job.value);
    pending.message.mutable_stage()->set_checkpoint(stage.checkpoint.value);
    pending.message.mutable_stage()->set_await_memory(stage.await_memory);
    pending.kind = core::OrderKind::Stage;
    pending.job = stage.job;
    give(stage.node, std::move(pending));
  }
  void on(const core::DropOrders& drop) { state_.links.drop_orders(drop.node); }

  void on(const core::AnswerRegister& answer) {
    const auto* registered = std::get_if<core::NodeRegistered>(&input_);
    if (registered && answer.refused.empty()) state_.links.accept(answer.node, registered->epoch);
    applied.registered = answer;
  }
  void on(const core::AnswerHeartbeat& answer) { applied.heartbeat = answer; }

  void on(const core::EmitEvent& emit) {
    v1::Event event;
    event.set_at_wall_ms(wall_time_ms());
    event.set_kind(emit.kind);
    event.set_job_id(emit.job.value);
    event.set_job_name(job_name(emit.job));
    event.set_node(emit.node.value);
    event.set_text(emit.text);
    event.set_checkpoint(emit.checkpoint.value);
    if (emit.timing) *event.mutable_timing() = timing(emit.job, *emit.timing);
    spdlog::info("{}: {}", emit.kind, emit.text);
    batch_.changes.events.push_back(std::move(event));
  }
  void on(const core::Reply& reply) { applied.reply = reply.status; }
  void on(const core::MoveFinished& finished) {
    if (auto entry = state_.jobs.find(finished.job); entry != state_.jobs.end()) {
      auto& moves = entry->second.moves;
      moves.push_back(timing(finished.job, finished.timing));
      if (moves.size() > kKeptMoves) moves.erase(moves.begin());
      batch_.changes.moves.emplace_back(finished.job, moves.back());
    }
    batch_.actions.push_back(finished);
  }
  void on(const core::CheckpointFinished& finished) { batch_.actions.push_back(finished); }

  template <typename Message, typename Output>
  static void fill(Message& message, const Output& output) {
    message.set_job_id(output.job.value);
    message.set_generation(output.generation.value);
  }
  template <typename Output>
  void order(const NodeId& node, core::OrderKind kind, const Output& output, v1::Order message) {
    PendingOrder pending;
    pending.message = std::move(message);
    pending.kind = kind;
    pending.job = output.job;
    pending.generation = output.generation;
    give(node, std::move(pending));
  }
  void give(const NodeId& node, PendingOrder pending) {
    batch_.actions.push_back(AllowOrder{node, state_.links.add(node, std::move(pending))});
  }
  v1::JobSpec spec(JobId job) const {
    auto entry = state_.jobs.find(job);
    return entry == state_.jobs.end() ? v1::JobSpec() : entry->second.spec;
  }
  std::string job_name(JobId job) const {
    const core::JobRecord* record = job.value ? state_.core.find_job(job) : nullptr;
    return record ? record->name : "";
  }
  v1::Timing timing(JobId job, const core::MoveTiming& core_timing) const {
    v1::Timing wire = to_wire(core_timing);
    wire.set_at_wall_ms(wall_time_ms());
    wire.set_job_id(job.value);
    wire.set_job_name(job_name(job));
    return wire;
  }

  State& state_;
  const core::Input& input_;
  Batch batch_;
  std::vector<Action> late_actions_;
};

Loop::Applied Loop::Locked::apply(const core::Input& input, Extra extra) {
  Recorder recorder(loop_, input, std::move(extra));
  for (const auto& output : state.core.apply(input, now)) recorder.record(output);
  Batch batch = recorder.batch();
  if (!batch.changes.empty() || !batch.actions.empty()) {
    batch.ticket = ++loop_.last_ticket_;
    loop_.pending_.push_back(std::move(batch));
    loop_.unsaved_.notify_one();
  }
  recorder.applied.ticket = loop_.last_ticket_;
  if (state.core.next_deadline() < loop_.ticking_at_) loop_.deadline_.notify_one();
  return std::move(recorder.applied);
}

void Loop::execute(const AllowOrder& action) {
  with_lock([&](Locked& l) { l.state.links.allow_sending(action.node, action.order_id); });
}

void Loop::execute(const JobChanged& action) { follow_job(action.job); }

// The key first, and before the user is told: a queue of deletions may be long.
void Loop::execute(const JobForgotten& action) {
  if (auto status = stores_.checkpoints.forget_key(action.job); !status)
    spdlog::error("the key of job {} can't be removed: {}", action.job, status.error().message());
  cleaner_.post([&stores = stores_, job = action.job] {
    for (const Status& status : {stores.logs.remove(job), stores.checkpoints.remove_job(job)})
      if (!status) spdlog::warn("{}", status.error().message());
  });
}

void Loop::execute(const CheckpointVisible& action) {
  if (auto log = stores_.logs.get(action.job)) (*log)->set_safe(action.output_bytes);
  follow_job(action.job);
}

void Loop::execute(const DeleteCheckpoint& action) {
  cleaner_.post([&checkpoints = stores_.checkpoints, action] {
    if (auto status = checkpoints.remove(action.job, action.number); !status)
      spdlog::warn("{}", status.error().message());
  });
}

void Loop::execute(const core::RollBackOutput& action) {
  auto log = stores_.logs.get(action.job);
  Status status = log ? (*log)->roll_back(action.bytes) : fail(log.error());
  if (!status) spdlog::error("output of job {}: {}", action.job, status.error().message());
  if (log) (*log)->set_writer(action.generation);
}

void Loop::execute(const core::MoveFinished& action) {
  std::lock_guard lock(mutex_);
  for (core::RequestId id : action.requests)
    if (auto found = answers_.find(id); found != answers_.end()) found->second.move = action;
}

void Loop::execute(const core::CheckpointFinished& action) {
  std::lock_guard lock(mutex_);
  for (core::RequestId id : action.requests)
    if (auto found = answers_.find(id); found != answers_.end()) found->second.checkpoint = action;
}

// Tells the job's log what its readers may rely on.
void Loop::follow_job(JobId job) {
  bool ended = false;
  bool always_safe = false;
  bool known = with_lock([&](Locked& l) {
    const core::JobRecord* record = l.state.core.find_job(job);
    auto entry = l.state.jobs.find(job);
    if (!record || entry == l.state.jobs.end()) return false;
    ended = core::has_ended(record->state);
    always_safe = nothing_to_go_back_to(*record, entry->second);
    return true;
  });
  if (!known) return;
  auto log = stores_.logs.get(job);
  if (!log) return;
  (*log)->set_always_safe(always_safe);
  (*log)->set_ended(ended);
}

}  // namespace baton::control
