#include "agent_model.h"

#include <algorithm>

namespace baton::sim {
namespace {

constexpr TimeUs kCallTimeout = 1 * kSecond;

}  // namespace

AgentModel::AgentModel(Kernel& kernel, World& world, ControlModel& control, NodeId id,
                       const core::Config& config, AgentTraits t)
    : traits(t),
      kernel_(kernel),
      world_(world),
      control_(control),
      id_(std::move(id)),
      config_(config) {}

// ------------------------------------------------------------------ the machine

void AgentModel::start_process() {
  if (!powered_ || running_) return;
  running_ = true;
  ++process_;
  kernel_.trace(fmt::format("{} agent starts (epoch {}-{})", id_.value, boot_, process_));
  paused_until_ = 0;
  registered_ = registering_ = false;
  lease_local_us_ = 0;
  answered_.clear();
  accepted_.clear();
  launch_waiters_.clear();
  freeze_waiters_.clear();
  killed_.clear();
  staging_.clear();
  for (const auto& [key, sandbox] : sandboxes_) {
    // What the old process was doing to it is undone by the sandbox itself.
    ++sandbox->busy;
    if (sandbox->life == Life::Frozen) world_.set_life(*sandbox, Life::Running);
  }
  const auto starting = sandboxes_;
  for (const auto& [key, sandbox] : starting) {
    if (sandbox->life == Life::Starting) end(sandbox, core::ExitCause::Lost, 0);
    if (sandbox->life == Life::Running) live(sandbox);
  }
  for (const auto& [key, sandbox] : std::map(unreported_)) report_exit(sandbox);
  register_again();
}

void AgentModel::crash_process() {
  if (!running_) return;
  kernel_.trace(fmt::format("{} agent crashes", id_.value));
  break_stream();
  running_ = false;
  ++process_;
  // Pid 1 sees the connection break: what is armed to die with its agent does.
  for (const auto& [key, sandbox] : std::map(sandboxes_)) {
    if (sandbox->life == Life::Held) end(sandbox, core::ExitCause::Killed, 137);
  }
}

void AgentModel::pause_process(TimeUs time) {
  kernel_.trace(fmt::format("{} agent stopped for {} ms", id_.value, time / kMs));
  paused_until_ = std::max(paused_until_, kernel_.now() + time);
}

void AgentModel::cut_power() {
  kernel_.trace(fmt::format("{} power cut", id_.value));
  break_stream();
  running_ = powered_ = false;
  ++process_;
  for (const auto& [key, sandbox] : sandboxes_) {
    ++sandbox->busy;
    if (sandbox->life != Life::Ended) world_.set_life(*sandbox, Life::Ended);
  }
  sandboxes_.clear();
  unreported_.clear();
}

void AgentModel::power_on() {
  powered_ = true;
  ++boot_;
  start_process();
}

void AgentModel::partition(bool on) {
  if (on != partitioned_) kernel_.trace(fmt::format("{} partition {}", id_.value, on));
  partitioned_ = on;
  if (on) break_stream();
}

// ------------------------------------------------------------------ messages

TimeUs AgentModel::message_delay() {
  if (kernel_.rng.chance(world_.weather.straggle)) return kernel_.rng.between(1, 5 * kSecond);
  return kernel_.rng.between(100, 4 * kMs);
}

void AgentModel::in_process(std::function<void()> what) {
  if (paused_until_ <= kernel_.now()) return what();
  kernel_.at(paused_until_, [this, process = process_, what = std::move(what)] {
    if (process == process_ && running_) in_process(what);
  });
}

void AgentModel::after(TimeUs delay, std::function<void()> what) {
  kernel_.after(delay, [this, process = process_, what = std::move(what)] {
    if (process == process_ && running_) in_process(what);
  });
}

template <typename Answer>
void AgentModel::call(std::function<std::optional<Answer>()> at_controller,
                      std::function<void(Answer)> done, std::function<void()> failed) {
  auto settled = std::make_shared<bool>(false);
  auto reply = [this, settled, done, process = process_](Answer answer) {
    if (partitioned_ || kernel_.rng.chance(world_.weather.loss)) return;
    kernel_.after(message_delay(), [this, settled, done, process, answer] {
      if (process != process_ || !running_) return;
      in_process([settled, done, answer] {
        if (std::exchange(*settled, true)) return;
        done(answer);
      });
    });
  };
  const int copies = kernel_.rng.chance(world_.weather.duplicate) ? 2 : 1;
  for (int copy = 0; copy < copies; ++copy) {
    if (partitioned_ || kernel_.rng.chance(world_.weather.loss)) continue;
    kernel_.after(message_delay(), [this, at_controller, reply, life = control_.life()] {
      if (partitioned_ || !control_.up() || control_.life() != life) return;
      if (auto answer = at_controller()) reply(*answer);
    });
  }
  after(kCallTimeout, [settled, failed] {
    if (!std::exchange(*settled, true)) failed();
  });
}

std::vector<core::IncarnationReport> AgentModel::list() const {
  std::vector<core::IncarnationReport> result;
  for (const auto& [key, sandbox] : sandboxes_) {
    const auto state = sandbox->life == Life::Starting ? core::IncarnationState::Starting
                       : sandbox->life == Life::Held   ? core::IncarnationState::Held
                                                       : core::IncarnationState::Running;
    result.push_back({key.first, key.second, state});
  }
  if (!traits.lists_ended) return result;
  for (const auto& [key, sandbox] : unreported_) {
    result.push_back({key.first, key.second, core::IncarnationState::Running});
  }
  return result;
}

void AgentModel::register_again() {
  if (registering_) return;
  registering_ = true;
  registered_ = false;
  break_stream();  // before the list is composed
  core::NodeRegistered input;
  input.facts = {.id = id_, .cpus = 4, .memory_bytes = 8ull << 30, .criu_version = "4.2.1"};
  input.epoch = fmt::format("{}-{}", boot_, process_);
  input.incarnations = list();
  input.staged = list_staged();
  const double sent = local_us();
  call<core::AnswerRegister>([this, input] { return control_.on_register(input); },
                             [this, sent](core::AnswerRegister reply) {
                               registering_ = false;
                               if (!reply.refused.empty()) {
                                 return after(300 * kMs, [this] { register_again(); });
                               }
                               registered_ = true;
                               set_lease(sent + reply.lease_ms * 1000.0);
                               for (const auto& superseded : reply.kill)
                                 kill({superseded.job, superseded.generation});
                               attach();
                               heartbeat();
                             },
                             [this] {
                               registering_ = false;
                               after(kernel_.rng.between(50 * kMs, 300 * kMs),
                                     [this] { register_again(); });
                             });
}

void AgentModel::heartbeat() {
  if (!registered_) return;
  core::Heartbeat input;
  input.node = id_;
  input.epoch = fmt::format("{}-{}", boot_, process_);
  input.incarnations = list();
  input.staged = list_staged();
  input.sample.cpu_utilization = traits.cpu;
  input.sample.memory_utilization = 0.2;
  input.sample.about_to_fail = traits.about_to_fail;
  const double sent = local_us();
  call<core::AnswerHeartbeat>([this, input] { return control_.on_heartbeat(input); },
                              [this, sent](core::AnswerHeartbeat reply) {
                                if (!registered_) return;
                                if (!reply.renewed) return register_again();
                                set_lease(sent + reply.lease_ms * 1000.0);
                              },
                              [] {});
  after(TimeUs{config_.lease_ms} * kMs / 5, [this, stream = process_] {
    if (stream == process_) heartbeat();
  });
}

void AgentModel::set_lease(double deadline_local_us) {
  lease_local_us_ = std::max(lease_local_us_, deadline_local_us);
  for (const auto& [key, sandbox] : sandboxes_) {
    sandbox->deadline_local_us = std::max(sandbox->deadline_local_us, deadline_local_us);
  }
}

void AgentModel::attach() {
  if (!registered_ || stream_ != 0) return;
  if (partitioned_ || !control_.up()) return after(200 * kMs, [this] { attach(); });
  const std::uint64_t stream = ++last_stream_;
  const std::string epoch = fmt::format("{}-{}", boot_, process_);
  auto deliver = [this, stream, process = process_,
                  life = control_.life()](const PendingOrder& order) {
    down_free_at_ = std::max(down_free_at_, kernel_.now() + message_delay()) + 1;
    kernel_.at(down_free_at_, [this, stream, process, life, order] {
      if (stream_ != stream || process != process_ || control_.life() != life) return;
      in_process([this, stream, order] {
        if (stream_ == stream) handle(order);
      });
    });
  };
  stream_ = stream;
  if (!control_.attach(id_, epoch, stream, deliver)) {
    stream_ = 0;
    after(200 * kMs, [this] { attach(); });
    return;
  }
  // Noticed by keep-alive when the other end is gone.
  after(500 * kMs, [this, stream, life = control_.life()] {
    auto watch = std::make_shared<std::function<void()>>();
    *watch = [this, stream, life, watch] {
      if (stream_ != stream) return;
      if (!control_.up() || control_.life() != life || !control_.attached(id_, stream)) {
        stream_ = 0;
        return attach();
      }
      after(500 * kMs, [watch] { (*watch)(); });
    };
    (*watch)();
  });
}

void AgentModel::break_stream() {
  if (stream_ == 0) return;
  stream_ = 0;
  if (control_.up()) control_.detach(id_);
  if (!running_) return;
  after(kernel_.rng.between(100 * kMs, 800 * kMs), [this] { attach(); });
}

// ------------------------------------------------------------------ sandboxes

void AgentModel::watch_lease(const SandboxPtr& sandbox) {
  const auto when = static_cast<TimeUs>(sandbox->deadline_local_us / traits.clock_rate) + 1;
  kernel_.at(when, [this, sandbox] {
    if (sandbox->life == Life::Ended) return;
    if (sandbox->deadline_local_us > local_us()) return watch_lease(sandbox);
    sandbox->dying = true;
    const TimeUs margin = TimeUs{config_.fence_margin_ms} * kMs;
    kernel_.after(kernel_.rng.between(0, margin - 10 * kMs), [this, sandbox] {
      if (sandbox->life != Life::Ended) end(sandbox, core::ExitCause::Fenced, 0);
    });
  });
}

void AgentModel::live(const SandboxPtr& sandbox) {
  const std::uint64_t busy = sandbox->busy;
  auto here = [this, sandbox, busy] {
    return sandbox->busy == busy && sandbox->life == Life::Running;
  };
  after(kernel_.rng.between(300 * kMs, 3 * kSecond), [this, sandbox, here] {
    if (!here()) return;
    ship_output(sandbox);
    if (world_.weather.faults && kernel_.rng.chance(0.004)) {
      return end(sandbox, core::ExitCause::Lost, 0);
    }
    if (world_.weather.faults && kernel_.rng.chance(0.004)) {
      return end(sandbox, core::ExitCause::Exited, kernel_.rng.chance(0.3) ? 0 : 3);
    }
    world_.set_life(*sandbox, Life::Frozen);  // an interval checkpoint
    frozen(0, sandbox, false, 2);
  });
}

void AgentModel::end(const SandboxPtr& sandbox, core::ExitCause cause, int code) {
  const Key key{sandbox->job, sandbox->generation};
  ++sandbox->busy;
  world_.set_life(*sandbox, Life::Ended);
  sandbox->cause = cause;
  sandbox->code = code;
  sandboxes_.erase(key);
  unreported_[key] = sandbox;
  const auto waiters = std::exchange(launch_waiters_[key], {});
  if (!running_) return;
  for (std::uint64_t id : waiters) {
    answer(id, core::OrderKind::Restore, key, core::FailureKind::Internal);
  }
  in_process([this, sandbox] { report_exit(sandbox); });
}

void AgentModel::report_exit(const SandboxPtr& sandbox) {
  const Key key{sandbox->job, sandbox->generation};
  call<bool>(
      [this, sandbox, key]() -> std::optional<bool> {
        if (!control_.on_exit({key.first, key.second, sandbox->code, sandbox->cause, ""},
                              sandbox->output)) {
          return std::nullopt;
        }
        return true;
      },
      [this, key](bool) { unreported_.erase(key); },
      [this, sandbox] {
        after(kernel_.rng.between(100 * kMs, 600 * kMs), [this, sandbox] { report_exit(sandbox); });
      });
}

void AgentModel::ship_output(const SandboxPtr& sandbox) {
  world_.accrue(*sandbox);
  call<bool>(
      [this, sandbox, output = sandbox->output]() -> std::optional<bool> {
        return control_.on_output(sandbox->job, sandbox->generation, output);
      },
      [](bool) {}, [] {});
}

// Frozen: upload what it is now; hold or resume when the controller has it.
void AgentModel::frozen(std::uint64_t id, const SandboxPtr& sandbox, bool hold, int attempts) {
  const Key key{sandbox->job, sandbox->generation};
  const auto kind = hold ? core::OrderKind::Freeze : core::OrderKind::Checkpoint;
  const std::uint64_t upload = std::hash<std::string>{}(id_.value) * 1'000'003 + (boot_ << 40) +
                               (process_ << 24) + ++next_upload_;
  const std::uint64_t busy = sandbox->busy;
  auto resume = [this, id, kind, key, sandbox](core::FailureKind failure, CheckpointNumber number) {
    if (sandbox->life == Life::Frozen) {
      world_.set_life(*sandbox, Life::Running);
      live(sandbox);
    }
    if (id != 0) answer(id, kind, key, failure, number);
  };
  call<CheckpointNumber>(
      [this, sandbox, upload, hold, key] {
        return control_.on_upload(key.first, key.second, upload, sandbox->output, hold);
      },
      [this, sandbox, busy, hold, resume, id, kind, key](CheckpointNumber number) {
        if (sandbox->busy != busy || sandbox->life != Life::Frozen) {
          return resume(core::FailureKind::Internal, {});
        }
        if (number.value == 0) return resume(core::FailureKind::Internal, {});
        if (!hold) return resume({}, number);
        sandbox->held_in = number;
        world_.set_life(*sandbox, Life::Held);
        answer(id, kind, key, {}, number);
      },
      [this, sandbox, busy, id, hold, attempts, resume] {
        if (sandbox->busy == busy && sandbox->life == Life::Frozen && attempts < 2) {
          return frozen(id, sandbox, hold, attempts + 1);
        }
        resume(core::FailureKind::Internal, {});
      });
}

}  // namespace baton::sim
