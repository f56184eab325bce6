// A seeded simulation of the whole cluster around the real core: skewed clocks, lost, late,
// doubled and reordered messages, agents that crash or stand still, power cuts, partitions,
// controllers that restart, and users who ask for everything at the wrong moment.
//
//   sim_core [--seeds N] [--first S] [--fresh F] [--minutes M] [--verbose]
//                                     N seeds from S on, and F that nobody has tried before
//   sim_core_planted [--seeds N] …    the same with bugs in it (core/planted.h): exit code 0 when
//                                     each of them was found by one of the seeds
//
// Promises checked at every change: no job runs twice; generations only grow; what the log has at
// a job's end is what the job printed; every user gets one answer. And once the faults stop: every
// job runs, once, and has a standby, or has ended; no node keeps a copy for nobody. A failure
// prints its seed; --first SEED --seeds 1 --verbose replays it exactly.
#include <charconv>
#include <cstring>
#include <memory>
#include <random>

#include "agent_model.h"
#include "core/planted.h"

namespace baton::sim {
namespace {

constexpr TimeUs kCalm = 240 * kSecond;

class Simulation {
 public:
  Simulation(std::uint64_t seed, bool verbose)
      : kernel_(seed), world_(kernel_), control_(kernel_, world_, config()) {
    kernel_.verbose = verbose;
    Rng& rng = kernel_.rng;
    const bool rough = rng.chance(0.7);
    weather_ = {.loss = rough ? rng.fraction() * 0.1 : 0,
                .duplicate = rough ? rng.fraction() * 0.1 : 0,
                .straggle = rough ? rng.fraction() * 0.05 : 0,
                .order_failure = rng.chance(0.5) ? rng.fraction() * 0.2 : 0,
                .damage = rng.chance(0.3) ? rng.fraction() * 0.2 : 0,
                .faults = true};
    const auto nodes = rng.between(2, 5);
    for (std::int64_t i = 1; i <= nodes; ++i) {
      const double rate = 1 + (rng.fraction() * 2 - 1) * config().clock_rate_error;
      AgentTraits traits{.clock_rate = rate, .lists_ended = rng.chance(0.8)};
      agents_.push_back(std::make_unique<AgentModel>(
          kernel_, world_, control_, NodeId(fmt::format("node-{}", i)), config(), traits));
    }
  }

  // True: nothing is wrong.
  bool run(TimeUs stormy) {
    world_.weather = weather_;
    control_.start();
    for (auto& agent : agents_) agent->start_process();
    stormy_until_ = stormy;
    kernel_.after(500 * kMs, [this] { someone_asks(); });
    kernel_.after(5 * kSecond, [this] { something_breaks(); });
    kernel_.run_until(stormy);
    if (kernel_.failure.empty()) calm_down();
    kernel_.run_until(stormy + kCalm);
    if (kernel_.failure.empty()) check_calm();
    return kernel_.failure.empty();
  }

  const Kernel& kernel() const { return kernel_; }
  const ControlModel& control() const { return control_; }

 private:
  static core::Config config() {
    core::Config config;
    config.policy.cooldown_ms = 20'000;
    config.restore_timeout_ms = 60'000;
    config.freeze_timeout_ms = 60'000;
    return config;
  }

  AgentModel& some_agent() { return *agents_[kernel_.rng.next() % agents_.size()]; }
  NodeId some_node() {
    return NodeId(fmt::format("node-{}", kernel_.rng.between(1, static_cast<int>(agents_.size()))));
  }

  void someone_asks() {
    if (kernel_.now() >= stormy_until_) return;
    if (control_.up()) ask();
    kernel_.after(kernel_.rng.between(100 * kMs, 4 * kSecond), [this] { someone_asks(); });
  }

  void ask() {
    Rng& rng = kernel_.rng;
    const auto jobs = control_.cluster().jobs();
    if (jobs.size() < 3 || (jobs.size() < 8 && rng.chance(0.1))) return submit();
    const JobId job = jobs[rng.next() % jobs.size()]->id;
    const core::RequestId request = control_.next_request();
    const NodeId anywhere = rng.chance(0.5) ? NodeId{} : some_node();
    switch (rng.between(0, 19)) {
      case 0:
      case 1:
      case 2:
      case 3: return control_.apply(core::UserMigrate{request, job, anywhere, some_limits()});
      case 4:
      case 5:
        return control_.apply(core::UserRestore{
            request, job, CheckpointNumber(static_cast<std::uint64_t>(rng.between(0, 5))),
            anywhere});
      case 6: return control_.apply(core::UserCheckpoint{request, job});
      case 7:
        return control_.apply(
            core::UserStop{request, job, static_cast<std::uint32_t>(rng.between(0, 5000))});
      case 8: return control_.apply(core::UserKill{request, job, rng.chance(0.5) ? 9 : 15});
      case 9: return control_.apply(core::RemoveJob{request, job, rng.chance(0.2)});
      case 10:
        return control_.apply(
            core::DrainNode{request, some_node(), rng.chance(0.5), some_limits().deadline_ms});
      case 11: return control_.apply(core::CordonNode{request, some_node()});
      case 12:
      case 13: return control_.apply(core::UncordonNode{request, some_node()});
      case 14:
      case 15: some_agent().traits.cpu = rng.chance(0.4) ? 0.97 : 0.1; return;
      case 16: some_agent().traits.about_to_fail = rng.chance(0.3); return;
      default: return submit();
    }
  }

  core::MoveLimits some_limits() {
    Rng& rng = kernel_.rng;
    core::MoveLimits limits;
    if (rng.chance(0.3)) limits.deadline_ms = static_cast<std::uint32_t>(rng.between(1, 20'000));
    if (rng.chance(0.3)) limits.max_downtime_ms = static_cast<std::uint32_t>(rng.between(1, 2'000));
    return limits;
  }

  void submit() {
    if (control_.cluster().jobs().size() >= 8) return;
    core::JobRecord record;
    record.id = JobId(++last_job_);
    record.name = fmt::format("job-{}", last_job_);
    record.policy = config().policy;
    record.restart = std::vector{core::RestartPolicy::Never, core::RestartPolicy::Checkpoint,
                                 core::RestartPolicy::Scratch}[kernel_.rng.next() % 3];
    if (kernel_.rng.chance(0.3)) record.needs.wanted_node = some_node();
    control_.submit(record);
  }

  void something_breaks() {
    if (kernel_.now() >= stormy_until_) return;
    Rng& rng = kernel_.rng;
    AgentModel& agent = some_agent();
    const TimeUs time = rng.between(50 * kMs, rng.chance(0.3) ? 20 * kSecond : 4 * kSecond);
    switch (rng.between(0, 9)) {
      case 0:
      case 1:
      case 2:
        agent.partition(true);
        kernel_.after(time, [&agent] { agent.partition(false); });
        break;
      case 3:
      case 4:
        agent.crash_process();
        kernel_.after(time, [&agent] { agent.start_process(); });
        break;
      case 5:
      case 6:
        if (agent.alive()) agent.pause_process(time);
        break;
      case 7:
        agent.cut_power();
        kernel_.after(time + kSecond, [&agent] { agent.power_on(); });
        break;
      default:
        if (!control_.up()) break;
        control_.crash();
        kernel_.after(time, [this] {
          if (!control_.up()) control_.start();
        });
    }
    kernel_.after(rng.between(200 * kMs, 15 * kSecond), [this] { something_breaks(); });
  }

  void calm_down() {
    kernel_.trace("---- the faults stop");
    world_.weather = {};
    for (auto& agent : agents_) {
      agent->traits.cpu = 0.1;
      agent->traits.about_to_fail = false;
    }
    // What is down comes back by itself within the longest outage; then nothing is forbidden.
    kernel_.after(25 * kSecond, [this] {
      for (std::size_t i = 1; i <= agents_.size(); ++i) {
        control_.apply(
            core::UncordonNode{control_.next_request(), NodeId(fmt::format("node-{}", i))});
      }
    });
  }

  void check_calm() {
    if (!control_.up()) return kernel_.fail("the controller is down at the end");
    if (control_.awaiting_moves() != 0)
      return kernel_.fail(
          fmt::format("{} users never hear of the end of a move", control_.awaiting_moves()));
    for (const core::JobRecord* job : control_.cluster().jobs()) {
      const auto running = world_.running(job->id);
      auto wrong = [&](std::string_view what) {
        kernel_.fail(fmt::format("at the end job {} ({}) {}: {} incarnations run; reason: {}",
                                 job->id.value, core::to_string(job->state), what, running.size(),
                                 job->reason));
      };
      if (core::has_ended(job->state)) {
        if (!running.empty()) wrong("has ended but runs");
        continue;
      }
      if (job->state != core::JobState::Running || job->attempt) return wrong("is not at rest");
      if (running.size() != 1) return wrong("does not run");
      if (running[0]->node != job->current->node ||
          running[0]->generation != job->current->generation) {
        return wrong("runs as another incarnation than the controller believes");
      }
      world_.accrue(*running[0]);
      if (!control_.accepted(job->id).is_prefix_of(running[0]->output)) {
        wrong(fmt::format("has printed [{}], but the log says [{}]", running[0]->output.describe(),
                          control_.accepted(job->id).describe()));
      }
      const bool is_good = !job->checkpoints.empty() && !job->checkpoints.back().quarantined &&
                           !job->checkpoints.back().damaged;
      const core::StandbyView standby = control_.cluster().standby(job->id);
      if (is_good && standby.ready.value == 0) wrong("has no standby");
    }
    for (const auto& agent : agents_) check_staged(*agent);
  }

  void check_staged(const AgentModel& agent) {
    for (const auto& [job, number] : agent.staged()) {
      if (!control_.cluster().may_stage(job, agent.id())) {
        kernel_.fail(fmt::format("{} keeps checkpoint {} of job {} for nobody", agent.id().value,
                                 number.value, job.value));
      }
    }
  }

  Kernel kernel_;
  World world_;
  ControlModel control_;
  std::vector<std::unique_ptr<AgentModel>> agents_;
  Weather weather_;
  TimeUs stormy_until_ = 0;
  std::uint64_t last_job_ = 0;
};

struct Options {
  std::uint64_t seeds = 100;
  std::uint64_t first = 1;
  std::uint64_t fresh = 0;
  std::uint64_t minutes = 10;
  bool verbose = false;
};

bool parse(int argc, char** argv, Options& options) {
  for (int i = 1; i < argc; ++i) {
    const std::string_view name = argv[i];
    if (name == "--verbose") {
      options.verbose = true;
      continue;
    }
    std::uint64_t* value = name == "--seeds"     ? &options.seeds
                           : name == "--first"   ? &options.first
                           : name == "--fresh"   ? &options.fresh
                           : name == "--minutes" ? &options.minutes
                                                 : nullptr;
    if (value == nullptr || ++i == argc) return false;
    const char* end = argv[i] + std::strlen(argv[i]);
    if (auto [at, error] = std::from_chars(argv[i], end, *value);
        error != std::errc{} || at != end) {
      return false;
    }
  }
  return true;
}

}  // namespace
}  // namespace baton::sim

#ifdef BATON_PLANTED_BUGS

namespace {

struct Planted {
  baton::core::Bug bug;
  const char* name;
};
constexpr Planted all_planted[] = {
    {baton::core::Bug::SkipFenceMargin, "skip the fence margin"},
    {baton::core::Bug::AcceptStaleGeneration, "accept a stale generation"},
    {baton::core::Bug::ReuseGeneration, "use a generation again"},
    {baton::core::Bug::LaunchBesideSource, "launch beside the source"},
    {baton::core::Bug::ForgetAttempt, "forget an attempt"},
    {baton::core::Bug::ResumeDespiteAttempt, "resume despite an attempt"},
    {baton::core::Bug::KeepLostOutput, "keep lost output"},
    {baton::core::Bug::RestoreSuperseded, "restore a superseded checkpoint"},
    {baton::core::Bug::ForgetRequest, "forget a request"},
};

bool finds(const Planted& planted, const baton::sim::Options& options) {
  baton::core::planted_bug = planted.bug;
  for (std::uint64_t seed = options.first; seed < options.first + options.seeds; ++seed) {
    baton::sim::Simulation simulation(seed, options.verbose);
    if (simulation.run(static_cast<baton::sim::TimeUs>(options.minutes) * 60 * baton::sim::kSecond))
      continue;
    fmt::print("{}: found by seed {}: {}\n", planted.name, seed, simulation.kernel().failure);
    return true;
  }
  fmt::print("{}: NOT FOUND by {} seeds\n", planted.name, options.seeds);
  return false;
}

}  // namespace

int main(int argc, char** argv) {
  baton::sim::Options options;
  if (!baton::sim::parse(argc, argv, options)) return 2;
  bool all_found = true;
  for (const Planted& planted : all_planted) all_found &= finds(planted, options);
  return all_found ? 0 : 1;
}

#else

int main(int argc, char** argv) {
  using namespace baton;
  sim::Options options;
  if (!sim::parse(argc, argv, options)) {
    fmt::print(stderr,
               "usage: sim_core [--seeds N] [--first S] [--fresh F] [--minutes M] [--verbose]\n");
    return 2;
  }
  std::uint64_t events = 0, moves = 0, failed_moves = 0, quarantined = 0;
  std::map<core::Cause, std::uint64_t> by_cause;
  std::vector<std::uint64_t> seeds;
  for (std::uint64_t i = 0; i < options.seeds; ++i) seeds.push_back(options.first + i);
  std::random_device random;
  for (std::uint64_t i = 0; i < options.fresh; ++i) seeds.push_back(random());
  for (std::uint64_t seed : seeds) {
    sim::Simulation simulation(seed, options.verbose);
    if (!simulation.run(static_cast<sim::TimeUs>(options.minutes) * 60 * sim::kSecond)) {
      fmt::print(stderr,
                 "seed {}: at {:.3f} s: {}\nreplay: sim_core --first {} --seeds 1 --minutes {} "
                 "--verbose\n",
                 seed, static_cast<double>(simulation.kernel().now()) / sim::kSecond,
                 simulation.kernel().failure, seed, options.minutes);
      return 1;
    }
    events += simulation.kernel().events;
    moves += simulation.control().moves_finished;
    failed_moves += simulation.control().moves_failed;
    quarantined += simulation.control().quarantined;
    for (const auto& [cause, count] : simulation.control().moves_by_cause) by_cause[cause] += count;
  }
  fmt::print("{} seeds of {} minutes: {} events, {} moves, {} failed moves, {} quarantined\n",
             seeds.size(), options.minutes, events, moves, failed_moves, quarantined);
  for (const auto& [cause, count] : by_cause)
    fmt::print("  {:<20} {}\n", core::to_string(cause), count);
  // A simulation in which nothing happens proves nothing.
  return moves > seeds.size() / 2 ? 0 : 1;
}

#endif
