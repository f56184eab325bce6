// What a large cluster costs the controller: a real `baton controller`, and many agents that are
// simulated in this process but speak to it as real ones do.
//
//   bench_controller [--json FILE] [--directory DIR] [--nodes N] [--jobs-per-node N] [--seconds N]
//
// Everybody joins with a token and connects by mutual TLS. Jobs are submitted through the API and
// placed by the controller; agents take the orders and say that the jobs run. Once all do, N
// seconds are measured: the controller's CPU time and memory, the round trips of heartbeats (one
// per agent and second, with all its jobs; each job's checkpoint is reported on once a minute), and
// calls of the API. There is no CRIU and there are no checkpoints' bytes.
//
// Then the controller is killed and started again, so that all connect at the same time: how long
// it takes until every lease is renewed, and whether one ran out.
//
// `generator` in the report is this process: it shares the machine with what it measures, and how
// late it wakes up after a sleep says what the machine's other work adds to every figure.
#include <fmt/format.h>
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <optional>

#include "base/clock.h"
#include "base/log.h"
#include "cluster/fleet.h"
#include "controller/users.h"
#include "report.h"
#include "scratch.h"
#include "sys/limits.h"
#include "wire/status.h"

namespace {

using namespace baton;
using namespace baton::bench;
namespace fs = std::filesystem;
using nlohmann::json;

constexpr double cpu_bar_cores = 1;
constexpr double memory_bar_mib = 512;
constexpr double latency_bar_ms = 50;
constexpr int submitters = 4;
constexpr std::uint32_t page_jobs = 100;
constexpr std::chrono::seconds call_timeout{30};
constexpr std::chrono::seconds settle_time{5};
constexpr std::chrono::milliseconds poll{100};
constexpr std::int64_t patience_ms = 900'000;

struct Options {
  fs::path directory = "/var/tmp";
  std::string json_file;
  int nodes = 1'000;
  int jobs_per_node = 10;
  int seconds = 60;
};

bool parse(int argc, char** argv, Options& options) {
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string name = argv[i], value = argv[i + 1];
    if (name == "--json")
      options.json_file = value;
    else if (name == "--directory")
      options.directory = value;
    else if (name == "--nodes")
      options.nodes = std::stoi(value);
    else if (name == "--jobs-per-node")
      options.jobs_per_node = std::stoi(value);
    else if (name == "--seconds")
      options.seconds = std::stoi(value);
    else
      return false;
  }
  return argc % 2 == 1 && options.nodes > 0 && options.jobs_per_node > 0 && options.seconds > 0;
}

class User {
 public:
  explicit User(const wire::Dialer& dialer) : api_(v1::Api::NewStub(dialer.open())) {}

  template <typename Request, typename Reply>
  Result<Reply> call(grpc::Status (v1::Api::Stub::*method)(grpc::ClientContext*, const Request&,
                                                           Reply*),
                     const std::type_identity_t<Request>& request) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + call_timeout);
    context.set_wait_for_ready(true);
    Reply reply;
    BATON_CHECK(wire::check(((*api_).*method)(&context, request, &reply)));
    return reply;
  }
  Status submit(int number) {
    v1::RunRequest request;
    v1::JobSpec& spec = *request.mutable_spec();
    spec.set_name(fmt::format("work-{}", number));
    for (const char* word : {"/usr/bin/simulate", "--steps", "1000000", "--seed"})
      spec.add_argv(word);
    spec.add_argv(std::to_string(number));
    (*spec.mutable_env())["OMP_NUM_THREADS"] = "1";
    spec.set_interval_ms(60'000);
    BATON_CHECK(call(&v1::Api::Stub::Run, request));
    return {};
  }

 private:
  std::unique_ptr<v1::Api::Stub> api_;
};

class Bench {
 public:
  explicit Bench(Options options) : options_(std::move(options)) {}

  Status run() {
    BATON_CHECK(sys::allow_many_descriptors());
    BATON_TRY(auto scratch, ScratchDirectory::make(options_.directory));
    const fs::path directory = scratch_.emplace(std::move(scratch)).path();
    const fs::path baton = fs::read_symlink("/proc/self/exe").parent_path() / "baton";
    BATON_TRY(controller_, ControllerProcess::start(baton, directory));
    BATON_TRY(dialer_, join(*controller_, v1::IDENTITY_USER, "bench", controller_->users_address(),
                            directory / "user"));
    auto began = boot_time_ns();
    BATON_TRY(fleet_, Fleet::join(*controller_, options_.nodes, directory / "agents"));
    phase("all have joined", began);
    began = boot_time_ns();
    fleet_->start();
    const auto nodes = static_cast<std::uint64_t>(options_.nodes);
    BATON_CHECK(await("registrations", [&] { return fleet_->figures().registered >= nodes; }));
    phase("all have registered", began);
    began = boot_time_ns();
    BATON_CHECK(submit_all());
    phase("all jobs are submitted", began);
    const auto jobs = static_cast<std::uint64_t>(all_jobs());
    BATON_CHECK(await("starts", [&] { return fleet_->figures().started >= jobs; }));
    phase("all jobs run", began);
    std::this_thread::sleep_for(settle_time);
    BATON_CHECK(measure());
    return storm();
  }
  json report() const {
    return {{"environment", surroundings_}, {"cases", cases_}, {"reach", reach_.cells()}};
  }
  const Reach& reach() const { return reach_; }

 private:
  int all_jobs() const { return options_.nodes * options_.jobs_per_node; }
  std::string case_name() const {
    return fmt::format("{} agents with {} jobs each", options_.nodes, options_.jobs_per_node);
  }

  void phase(const std::string& what, std::int64_t began_ns) {
    const double s = static_cast<double>(boot_time_ns() - began_ns) / 1e9;
    phases_[what + ", s"] = s;
    const auto cpu = cpu_seconds(controller_->pid());
    fmt::print("{} after {:.1f} s; controller: {:.1f} s of CPU in all, {:.0f} MiB, {} threads\n",
               what, s, cpu.value_or(0), controller_->resident_mib(), controller_->threads());
    std::fflush(stdout);
  }

  Status await(const std::string& what, const std::function<bool()>& reached) {
    for (const auto end = boot_time_ms() + patience_ms; boot_time_ms() < end;
         std::this_thread::sleep_for(poll))
      if (reached()) return {};
    return fail(ErrorCode::TimedOut, what + " did not come");
  }

  Status submit_all() {
    std::atomic<int> next = 0;
    std::array<Status, submitters> outcomes;
    {
      std::vector<std::jthread> threads;
      for (Status& outcome : outcomes)
        threads.emplace_back([&] {
          User user(*dialer_);
          for (int number; outcome && (number = next++) < all_jobs();)
            outcome = user.submit(number);
        });
    }
    for (Status& outcome : outcomes) BATON_CHECK(outcome);
    return {};
  }

  Status measure() {
    AgentFigures& agents = fleet_->figures();
    agents.take_heartbeats_ms();
    fleet_->take_late_ms();
    const auto failed = agents.failed.load(), late = agents.late.load(),
               not_renewed = agents.not_renewed.load();
    BATON_TRY(const double cpu_before, cpu_seconds(controller_->pid()));
    BATON_TRY(const double own_before, cpu_seconds(::getpid()));
    const auto began_ns = boot_time_ns();

    std::vector<std::unique_ptr<PacedCalls>> calls;
    auto add = [&](const std::string& name, double per_s, auto call) {
      auto user = std::make_shared<User>(*dialer_);
      calls.push_back(std::make_unique<PacedCalls>(name, per_s,
                                                   [user, call]() mutable { return call(*user); }));
    };
    add("a page of the list of jobs", 5, [after = std::uint64_t{0}](User& user) mutable -> Status {
      v1::ListJobsRequest request;
      request.set_limit(page_jobs);
      request.set_after(after);
      BATON_TRY(const auto page, user.call(&v1::Api::Stub::ListJobs, request));
      after = page.more() ? page.jobs().rbegin()->id() : 0;
      return {};
    });
    add("inspect one job", 5, [this, number = 0](User& user) mutable -> Status {
      v1::JobRef ref;
      ref.set_name_or_id(fmt::format("work-{}", (number += 37) % all_jobs()));
      BATON_CHECK(user.call(&v1::Api::Stub::GetJob, ref));
      return {};
    });
    add("list the nodes", 2, [](User& user) -> Status {
      BATON_CHECK(user.call(&v1::Api::Stub::ListNodes, v1::ListNodesRequest()));
      return {};
    });
    add("submit a job", 2,
        [number = all_jobs()](User& user) mutable { return user.submit(number++); });
    std::this_thread::sleep_for(std::chrono::seconds(options_.seconds));
    json samples;
    for (auto& one : calls) add_latency(one->name(), one->stop(), samples);

    const double wall_s = static_cast<double>(boot_time_ns() - began_ns) / 1e9;
    BATON_TRY(const double cpu_after, cpu_seconds(controller_->pid()));
    BATON_TRY(const double own_after, cpu_seconds(::getpid()));
    const double cores = (cpu_after - cpu_before) / wall_s;
    const double peak_mib = controller_->resident_peak_mib();
    PacedCalls::Outcome beats{.ms = agents.take_heartbeats_ms(),
                              .failed = agents.failed - failed + agents.not_renewed - not_renewed,
                              .error = ""};
    const auto wake_ups_ms = fleet_->take_late_ms();
    const auto expected = static_cast<double>(options_.nodes) * wall_s;
    const double kept = static_cast<double>(beats.ms.size()) / expected;
    add_latency("a heartbeat, that is, the renewal of a lease", std::move(beats), samples);
    reach_.add(case_name(), "controller's CPU", cores, "cores", fmt::format("<= {}", cpu_bar_cores),
               cores <= cpu_bar_cores);
    reach_.add(case_name(), "controller's memory, peak", peak_mib, "MiB",
               fmt::format("<= {}", memory_bar_mib), peak_mib <= memory_bar_mib);
    reach_.add(case_name(), "heartbeats that were made and renewed the lease", kept * 100, "%",
               ">= 99", kept >= 0.99);
    cases_.push_back({{"case", case_name()},
                      {"seconds", wall_s},
                      {"phases", phases_},
                      {"controller",
                       {{"cpu_cores", cores},
                        {"resident_mib", controller_->resident_mib()},
                        {"resident_peak_mib", peak_mib},
                        {"threads", controller_->threads()},
                        {"descriptors", controller_->descriptors()}}},
                      {"generator",
                       {{"cpu_cores", (own_after - own_before) / wall_s},
                        {"wakes_late_ms",
                         {{"p50", percentile(wake_ups_ms, 0.5)},
                          {"p90", percentile(wake_ups_ms, 0.9)},
                          {"p99", percentile(wake_ups_ms, 0.99)}}}}},
                      {"agents",
                       {{"late_turns", agents.late - late},
                        {"failed_calls", agents.failed - failed},
                        {"streams_ended", agents.streams_ended.load()}}},
                      {"samples_ms", samples}});
    fmt::print(
        "controller {:.2f} cores, {:.0f} MiB now, {} threads; this generator {:.2f} cores, wakes "
        "up {:.1f} ms late (p99)\n",
        cores, controller_->resident_mib(), controller_->threads(),
        (own_after - own_before) / wall_s, percentile(wake_ups_ms, 0.99));
    return {};
  }

  Status storm() {
    AgentFigures& agents = fleet_->figures();
    const auto nodes = static_cast<std::size_t>(options_.nodes);
    const auto lapsed = agents.lapsed.load(), started = agents.started.load();
    const std::string name = case_name() + ", all of which connect at once";
    BATON_TRY(const double own_before, cpu_seconds(::getpid()));
    const auto killed_ns = boot_time_ns();
    BATON_CHECK(controller_->restart());
    const auto again_ns = boot_time_ns();
    BATON_CHECK(await("leases", [&] { return fleet_->renewed_since(again_ns) == nodes; }));
    const double s = static_cast<double>(boot_time_ns() - killed_ns) / 1e9;
    BATON_TRY(const double cpu_s, cpu_seconds(controller_->pid()));
    BATON_TRY(const double own_after, cpu_seconds(::getpid()));
    std::this_thread::sleep_for(settle_time);
    const auto ran_out = agents.lapsed - lapsed, twice = agents.started - started;
    reach_.add(name, "controller killed -> all leases are renewed", s, "s",
               fmt::format("<= {}, the lease; none runs out", kLease.count()),
               s <= static_cast<double>(kLease.count()) && ran_out == 0);
    reach_.add(name, "jobs that were told to start again", static_cast<double>(twice), "jobs", "0",
               twice == 0);
    cases_.push_back({{"case", name},
                      {"seconds", s},
                      {"leases_run_out", ran_out},
                      {"controller", {{"cpu_s", cpu_s}}},
                      {"generator", {{"cpu_s", own_after - own_before}}}});
    fmt::print(
        "all leases are renewed {:.1f} s after the controller's death, {} ran out; it took {:.1f} "
        "s of CPU for it, and this generator {:.1f}\n",
        s, ran_out, cpu_s, own_after - own_before);
    return {};
  }

  void add_latency(const std::string& name, PacedCalls::Outcome outcome, json& samples) {
    std::optional<double> p99;
    if (!outcome.ms.empty()) p99 = percentile(outcome.ms, 0.99);
    fmt::print("{}: {} times, p50 {:.1f}, p99 {:.1f}, max {:.1f} ms, {} failed{}\n", name,
               outcome.ms.size(), percentile(outcome.ms, 0.5), p99.value_or(0),
               percentile(outcome.ms, 1), outcome.failed,
               outcome.error.empty() ? "" : ": " + outcome.error);
    reach_.add(case_name(), name + ", p99", p99, "ms",
               fmt::format("<= {}, none fails", latency_bar_ms),
               p99.value_or(0) <= latency_bar_ms && outcome.failed == 0);
    for (double& ms : outcome.ms) ms = std::round(ms * 1e3) / 1e3;
    samples[name] = std::move(outcome.ms);
  }

  const Options options_;
  const json surroundings_ = environment();
  std::optional<ScratchDirectory> scratch_;  // goes after all that use it
  std::optional<wire::Dialer> dialer_;
  std::unique_ptr<ControllerProcess> controller_;
  std::unique_ptr<Fleet> fleet_;
  json phases_ = json::object();
  json cases_ = json::array();
  Reach reach_;
};

}  // namespace

int main(int argc, char** argv) {
  Options options;
  if (!parse(argc, argv, options)) {
    fmt::print(stderr, "bench_controller: see the head of bench/controller.cc for its options\n");
    return 2;
  }
  log_init("bench", "warn");
  const std::string json_file = options.json_file;
  Bench bench(std::move(options));
  const Status status = bench.run();
  if (!status) fmt::print(stderr, "bench_controller: {}\n", status.error().message());
  bench.reach().print();
  if (!json_file.empty()) std::ofstream(json_file) << bench.report().dump() << "\n";
  return status && !bench.reach().lacks_any() ? 0 : 1;
}
