// What an agent does with its orders.
#include "agent_model.h"

namespace baton::sim {
namespace {

template <typename... Fs>
struct Overloaded : Fs... {
  using Fs::operator()...;
};

}  // namespace

void AgentModel::handle(const PendingOrder& order) {
  if (answered_.contains(order.id)) return send_result(order.id);
  if (!accepted_.insert(order.id).second) return;
  std::visit(
      Overloaded{
          [&](const core::StartIncarnation& o) { launch(order.id, o.job, o.generation, {}); },
          [&](const core::RestoreIncarnation& o) {
            launch(order.id, o.job, o.generation, o.checkpoint);
          },
          [&](const core::FreezeIncarnation& o) {
            freeze(order.id, {o.job, o.generation}, true);
          },
          [&](const core::TakeCheckpoint& o) {
            freeze(order.id, {o.job, o.generation}, false);
          },
          [&](const core::ReleaseIncarnation& o) {
            release(order.id, {o.job, o.generation}, o.kill);
          },
          [&](const core::KillIncarnation& o) {
            kill({o.job, o.generation});
            after(kernel_.rng.between(1 * kMs, 50 * kMs), [this, id = order.id, o] {
              answer(id, core::OrderKind::Kill, {o.job, o.generation});
            });
          },
          [&](const core::SignalIncarnation& o) {
            signal({o.job, o.generation}, o.signal);
            answer(order.id, core::OrderKind::Signal, {o.job, o.generation});
          },
          [&](const core::StageCheckpoint& o) { stage(order.id, o.job, o.checkpoint); },
          [](const auto&) {}},
      order.order);
}

void AgentModel::answer(std::uint64_t id, core::OrderKind kind, Key key, core::FailureKind failure,
                        CheckpointNumber number) {
  core::OrderDone done{
      .kind = kind, .job = key.first, .generation = key.second, .node = id_, .failure = failure};
  if (failure != core::FailureKind::None) done.error = "the simulator said so";
  done.checkpoint = number;
  answered_[id] = {done};
  send_result(id);
}

void AgentModel::send_result(std::uint64_t id) {
  if (stream_ == 0) return;  // asked again when the stream is back
  up_free_at_ = std::max(up_free_at_, kernel_.now() + message_delay()) + 1;
  kernel_.at(up_free_at_, [this, id, stream = stream_, done = answered_[id].done] {
    if (stream_ == stream) control_.on_result(id, done);
  });
}

SandboxPtr AgentModel::find(Key key) const {
  auto it = sandboxes_.find(key);
  return it == sandboxes_.end() ? nullptr : it->second;
}

void AgentModel::launch(std::uint64_t id, JobId job, Generation generation, CheckpointNumber from) {
  const Key key{job, generation};
  const auto kind = from.value != 0 ? core::OrderKind::Restore : core::OrderKind::Start;
  if (SandboxPtr old = find(key)) {
    if (old->life == Life::Starting) {
      launch_waiters_[key].push_back(id);
    } else {
      answer(id, kind, key);
    }
    return;
  }
  if (killed_.contains(key) || unreported_.contains(key)) {
    return answer(id, kind, key, core::FailureKind::Stale);
  }
  if (lease_local_us_ <= local_us()) return answer(id, kind, key, core::FailureKind::Internal);
  auto sandbox = std::make_shared<Sandbox>();
  sandbox->job = job;
  sandbox->generation = generation;
  sandbox->node = id_;
  sandbox->deadline_local_us = lease_local_us_;
  sandboxes_[key] = sandbox;
  launch_waiters_[key] = {id};
  world_.add(sandbox);
  watch_lease(sandbox);
  const std::uint64_t busy = sandbox->busy;
  after(kernel_.rng.between(5 * kMs, 1500 * kMs), [this, sandbox, busy, from] {
    if (sandbox->busy == busy && sandbox->life == Life::Starting) launched(sandbox, from);
  });
}

void AgentModel::launched(const SandboxPtr& sandbox, CheckpointNumber from) {
  const Key key{sandbox->job, sandbox->generation};
  const auto kind = from.value != 0 ? core::OrderKind::Restore : core::OrderKind::Start;
  const auto waiters = std::exchange(launch_waiters_[key], {});
  auto failure = core::FailureKind::None;
  if (from.value != 0) {
    const auto& all = world_.checkpoints[sandbox->job];
    const auto stored = all.find(from);
    if (stored == all.end() || stored->second.damaged) {
      failure = core::FailureKind::DamagedCheckpoint;
    } else {
      sandbox->output = stored->second.output;
    }
  }
  if (kernel_.rng.chance(world_.weather.order_failure)) {
    failure = std::vector{core::FailureKind::Internal, core::FailureKind::UnfitNode,
                          core::FailureKind::NoSpace}[kernel_.rng.next() % 3];
  }
  if (failure != core::FailureKind::None) {
    world_.set_life(*sandbox, Life::Ended);
    sandboxes_.erase(key);
  } else {
    staged_.erase(sandbox->job);
    world_.set_life(*sandbox, Life::Running);
    live(sandbox);
  }
  for (std::uint64_t id : waiters) answer(id, kind, key, failure);
}

void AgentModel::freeze(std::uint64_t id, Key key, bool hold) {
  const auto kind = hold ? core::OrderKind::Freeze : core::OrderKind::Checkpoint;
  SandboxPtr sandbox = find(key);
  if (sandbox == nullptr) return answer(id, kind, key, core::FailureKind::Stale);
  if (sandbox->life == Life::Held && hold) return answer(id, kind, key, {}, sandbox->held_in);
  if (sandbox->life == Life::Frozen) {  // one at a time
    return after(50 * kMs, [this, id, key, hold] { freeze(id, key, hold); });
  }
  if (sandbox->life != Life::Running) return answer(id, kind, key, core::FailureKind::Internal);
  const std::uint64_t busy = sandbox->busy;
  after(kernel_.rng.between(5 * kMs, 300 * kMs), [this, id, sandbox, hold, busy, kind, key] {
    if (sandbox->busy != busy || sandbox->life != Life::Running) {
      return answer(id, kind, key, core::FailureKind::Internal);
    }
    if (kernel_.rng.chance(world_.weather.order_failure)) {
      if (kernel_.rng.chance(0.2)) {
        end(sandbox, core::ExitCause::Killed, 137);
        return answer(id, kind, key, core::FailureKind::BrokenIncarnation);
      }
      return answer(id, kind, key, core::FailureKind::Internal);
    }
    world_.set_life(*sandbox, Life::Frozen);
    frozen(id, sandbox, hold, 0);
  });
}

void AgentModel::release(std::uint64_t id, Key key, bool kill_it) {
  SandboxPtr sandbox = find(key);
  if (kill_it) {
    kill(key);
    return answer(id, core::OrderKind::Release, key);
  }
  if (sandbox == nullptr) {
    return answer(id, core::OrderKind::Release, key, core::FailureKind::Stale);
  }
  if (sandbox->life == Life::Held) {
    world_.set_life(*sandbox, Life::Running);
    live(sandbox);
  }
  answer(id, core::OrderKind::Release, key);
}

// One at a time for each job, in the order in which they came.
void AgentModel::stage(std::uint64_t id, JobId job, CheckpointNumber number) {
  auto& queue = staging_[job];
  queue.emplace_back(id, number);
  if (queue.size() == 1) stage_next(job);
}

void AgentModel::stage_next(JobId job) {
  const auto [id, number] = staging_[job].front();
  const TimeUs time = number.value == 0 ? 1 * kMs : kernel_.rng.between(2 * kMs, 2000 * kMs);
  after(time, [this, id = id, number = number, job] {
    auto failure = core::FailureKind::None;
    const auto& all = world_.checkpoints[job];
    const auto stored = all.find(number);
    if (number.value == 0) {
      staged_.erase(job);
    } else if (stored == all.end() || stored->second.damaged) {
      failure = core::FailureKind::DamagedCheckpoint;
    } else if (kernel_.rng.chance(world_.weather.order_failure)) {
      failure = core::FailureKind::NoSpace;
    } else {
      staged_[job] = number;
    }
    answer(id, core::OrderKind::Stage, {job, {}}, failure, number);
    auto& queue = staging_[job];
    queue.pop_front();
    if (queue.empty()) {
      staging_.erase(job);
    } else {
      stage_next(job);
    }
  });
}

std::vector<core::StagedReport> AgentModel::list_staged() const {
  std::vector<core::StagedReport> result;
  for (const auto& [job, number] : staged_) result.push_back({job, number});
  for (const auto& [job, queue] : staging_) {
    if (!staged_.contains(job)) result.push_back({job, {}});
  }
  return result;
}

void AgentModel::kill(Key key) {
  killed_.insert(key);
  if (SandboxPtr sandbox = find(key)) end(sandbox, core::ExitCause::Killed, 137);
}

void AgentModel::signal(Key key, int) {
  if (kernel_.rng.chance(0.3)) return;  // ignores it
  after(kernel_.rng.between(1 * kMs, 2 * kSecond), [this, key] {
    SandboxPtr sandbox = find(key);
    if (sandbox != nullptr && sandbox->life == Life::Running) {
      end(sandbox, core::ExitCause::Exited, kernel_.rng.chance(0.5) ? 143 : 0);
    }
  });
}

}  // namespace baton::sim
