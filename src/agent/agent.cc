#include "agent/agent.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <random>
#include <thread>

#include "agent/attach.h"
#include "agent/base_copy.h"
#include "agent/membership.h"
#include "agent/node_facts.h"
#include "agent/probe.h"
#include "agent/sampler.h"
#include "agent/supervisor.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/version.h"
#include "sys/capabilities.h"
#include "sys/cgroup.h"
#include "sys/file.h"
#include "wire/channel.h"

namespace baton::agent {
namespace {

namespace fs = std::filesystem;

constexpr int kLockAttempts = 100;
constexpr std::chrono::milliseconds kLockPause{20};

int signal_fd = -1;  // of the one agent in this process, for the handler
std::atomic<bool> told_to_end = false;

void on_signal(int number) {
  const int saved = errno;
  const std::uint64_t one = 1;
  if (number != SIGPWR) told_to_end = true;
  (void)!::write(signal_fd, &one, sizeof(one));
  errno = saved;
}

// A handler and no mask: what this process starts must not inherit blocked signals.
Result<Fd> catch_signals() {
  Fd fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!fd.valid()) return fail_errno("eventfd");
  signal_fd = fd.get();
  struct sigaction action {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;
  for (int number : {SIGTERM, SIGINT, SIGPWR})
    if (::sigaction(number, &action, nullptr) != 0) return fail_errno("sigaction");
  return fd;
}

std::string random_epoch() {
  std::random_device device;
  return fmt::format("{:08x}{:08x}{:08x}", device(), device(), device());
}

// A predecessor that was killed may still be on its way out, and the new agent has to be in time
// for the lease: no reason to give up at once. The kernel tells nobody when such a lock comes free
// within a limit, so it is asked.
Result<Fd> lock_data(const fs::path& data) {
  BATON_TRY(Fd fd, sys::open_file(data / "lock", O_RDWR | O_CREAT, 0600));
  struct flock whole {};
  whole.l_type = F_WRLCK;
  for (int attempt = 0; attempt < kLockAttempts; ++attempt) {
    if (::fcntl(fd.get(), F_OFD_SETLK, &whole) == 0) return fd;
    if (errno != EAGAIN && errno != EACCES)
      return fail_errno(fmt::format("lock {}", data.string()));
    std::this_thread::sleep_for(kLockPause);
  }
  return fail(ErrorCode::FailedPrecondition, fmt::format("another agent uses {}", data.string()));
}

// The group that jobs get groups of their own in; "" where none can be made.
std::string make_cgroup_parent(const AgentOptions& options) {
  const fs::path path = options.node_cgroup.empty()
                            ? fs::path(fmt::format("baton-{}", options.name))
                            : fs::path(options.node_cgroup) / "jobs";
  auto group = sys::Cgroup::create(path);
  if (group || group.error().code() == ErrorCode::AlreadyExists) return path;
  spdlog::info("no control groups for jobs: {}", group.error().message());
  return "";
}

class Agent {
 public:
  explicit Agent(AgentOptions options) : options_(std::move(options)) {}

  Status prepare();
  Status run();
  // And takes away the group that they had theirs in, if it is this agent's own.
  void kill_jobs();

 private:
  LeaseIdentity identity() const;
  void make_context();
  void handle_notices();
  void refresh_health();
  void handle_power_notice();

  AgentOptions options_;
  Fd signals_;
  Fd lock_;
  Fd finished_;
  fs::path base_;
  ProbeReport criu_;
  std::string cgroup_parent_;
  const std::string epoch_ = random_epoch();

  Roster roster_;
  LeaseClock lease_;
  RegistrationGate registered_;
  HealthMonitor health_;
  pb::Policy policy_;
  RealSandboxFactory sandboxes_;
  std::unique_ptr<Sampler> sampler_;
  std::optional<wire::Dialer> dialer_;
  std::unique_ptr<ControllerLink> link_;
  std::unique_ptr<LeaseTransport> lease_transport_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<LocalCopies> copies_;
  std::unique_ptr<ReadyKeeper> ready_;
  std::unique_ptr<NodeContext> context_;
  std::unique_ptr<Supervisor> supervisor_;
  std::unique_ptr<Attachment> attachment_;
  std::unique_ptr<LeaseKeeper> keeper_;
  std::unique_ptr<Renewal> renewal_;
};

Status Agent::prepare() {
  BATON_TRY(signals_, catch_signals());
  finished_ = Fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!finished_.valid()) return fail_errno("eventfd");
  BATON_CHECK_CTX(sys::make_directories(options_.data, 0700), "data directory");
  options_.data = fs::canonical(options_.data);
  BATON_CHECK(check_data_directory(options_.data));
  BATON_TRY(lock_, lock_data(options_.data));
  BATON_TRY(dialer_, enter_cluster(options_));
  // Page faults must not delay a heartbeat; without the right to lock memory they may.
  if (::mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) != 0)
    spdlog::debug("memory is not locked: {}", std::strerror(errno));
  BATON_TRY(base_, prepare_base(options_.data));
  BATON_TRY(criu_, recall_or_probe_criu(options_.criu_prefix, options_.data));
  if (!criu_.ok) spdlog::warn("no working CRIU: {}", criu_.why);
  cgroup_parent_ = make_cgroup_parent(options_);
  BATON_CHECK_CTX(remove_scratch(options_.data / "scratch"), "earlier preflights");
  sampler_ = std::make_unique<Sampler>(
      sys::MetricsSources{.data = options_.data, .node_cgroup = options_.node_cgroup}, health_);
  link_ = connect_controller(*dialer_, options_.bandwidth);
  lease_transport_ = connect_lease(*dialer_);
  EngineOptions engine;
  engine.cache_directory = options_.data / "base-cache";
  engine.soft_dirty = has_soft_dirty(criu_);
  BATON_TRY(engine_, make_engine(engine));
  BATON_TRY(copies_, LocalCopies::open(options_.data / "copies"));
  ready_ = std::make_unique<ReadyKeeper>([this] {
    constexpr std::uint64_t kPartOfFree = 8;
    return options_.standby_memory_bytes.value_or(
        (sampler_->memory_free_bytes() + ready_->bytes()) / kPartOfFree);
  });
  make_context();
  supervisor_ = std::make_unique<Supervisor>(*context_);
  attachment_ = std::make_unique<Attachment>(
      options_.name, epoch_, [this](const pb::Order& order) { supervisor_->order(order); });
  keeper_ = std::make_unique<LeaseKeeper>(
      *lease_transport_, identity(), roster_, lease_, [this] { return sampler_->newest(); },
      boot_time_ns, [this] { attachment_->close(); });
  return {};
}

void Agent::make_context() {
  context_.reset(new NodeContext{
      .node = options_.name,
      .data = options_.data,
      .base = base_,
      .criu_prefix = options_.criu_prefix,
      .criu_version = criu_.ok ? criu_.criu_version : "",
      .criu_problem = criu_.ok ? "" : criu_.why,
      .cpu_features = cpu_features(),
      .cgroup_parent = cgroup_parent_,
      .standby_limit_bytes = options_.standby_limit_bytes,
      .controller = *link_,
      .engine = *engine_,
      .sandboxes = sandboxes_,
      .roster = roster_,
      .lease = lease_,
      .copies = *copies_,
      .registered = registered_,
      .ready = ready_.get(),
      .now_ns = boot_time_ns,
      .send_result = [this](const pb::OrderResult& result) { attachment_->send(result); },
      .memory_free_bytes = [this] { return sampler_->memory_free_bytes(); },
      .finished =
          [this] {
            const std::uint64_t one = 1;
            (void)!::write(finished_.get(), &one, sizeof(one));
          },
  });
}

LeaseIdentity Agent::identity() const {
  LeaseIdentity identity;
  pb::NodeFacts& facts = identity.facts;
  facts.set_name(options_.name);
  facts.set_address(options_.address);
  facts.set_kernel(kernel_release());
  facts.set_criu_version(context_->criu_version);
  facts.set_criu_problem(criu_.why);
  const auto capacity = sampler_->capacity();
  facts.set_cpus(capacity.cpus);
  facts.set_memory_bytes(capacity.memory_bytes);
  facts.mutable_cpu_features()->Assign(context_->cpu_features.begin(),
                                       context_->cpu_features.end());
  facts.set_cgroup_limits(!cgroup_parent_.empty());
  facts.set_tier(criu_.tier);
  facts.set_baton_version(kVersion);
  auto& abilities = *facts.mutable_abilities();
  for (const std::string& ability : criu_.abilities) abilities["criu-" + ability] = "yes";
  abilities["utilization"] = sampler_->cpu_source();
  abilities["base"] = base_.string();
  abilities["cgroups"] = cgroup_parent_.empty() ? "none" : cgroup_parent_;
  identity.agent_epoch = epoch_;
  identity.boot_id = boot_id();
  return identity;
}

void Agent::kill_jobs() {
  supervisor_->kill_all();
  if (cgroup_parent_.empty() || !options_.node_cgroup.empty()) return;
  auto group = sys::Cgroup::open(cgroup_parent_);
  if (!group) return;
  if (auto removed = group->remove(); !removed)
    spdlog::debug("control group of the jobs: {}", removed.error().message());
}

void Agent::handle_power_notice() {
  std::uint64_t count = 0;
  (void)!::read(signals_.get(), &count, sizeof(count));
  spdlog::warn("SIGPWR: this node is about to fail, its jobs are to leave");
  health_.announce("it was told so (SIGPWR)");
}

void Agent::refresh_health() {
  std::vector<HealthCheck> checks;
  auto add = [&](const pb::Policy& policy) {
    if (policy.health_command().empty()) return;
    HealthCheck check{.command = policy.health_command()};
    const pb::Policy& cluster = policy_;
    const auto interval = policy.has_health_interval_ms() ? policy.health_interval_ms()
                                                          : cluster.health_interval_ms();
    const auto failures =
        policy.has_health_failures() ? policy.health_failures() : cluster.health_failures();
    if (interval > 0) check.interval = std::chrono::milliseconds(interval);
    if (failures > 0) check.failures = failures;
    checks.push_back(std::move(check));
  };
  add(policy_);
  for (const pb::JobSpec& spec : supervisor_->specs()) add(spec.policy());
  health_.set_checks(std::move(checks));
}

void Agent::handle_notices() {
  for (LeaseNotice& notice : keeper_->take_notices()) {
    if (!notice.log.empty())
      spdlog::log(notice.warning ? spdlog::level::warn : spdlog::level::info, "{}", notice.log);
    if (notice.policy) policy_ = *notice.policy;
    if (!notice.registered) continue;
    supervisor_->kill_superseded(*notice.registered);
    registered_.open();
    attachment_->registered();
  }
}

Status Agent::run() {
  BATON_CHECK_CTX(supervisor_->adopt_all(), "adopt what an earlier agent left");
  sampler_->start();
  attachment_->start(*dialer_);
  renewal_ = std::make_unique<Renewal>(*dialer_, node_identity(options_));
  BATON_CHECK(keeper_->start());
  spdlog::info("node {}: kernel {}, CRIU {}, utilization of {}", options_.name, kernel_release(),
               context_->criu_version.empty() ? "none" : context_->criu_version,
               sampler_->cpu_source());
  for (;;) {
    pollfd fds[] = {{signals_.get(), POLLIN, 0},
                    {keeper_->notice_fd(), POLLIN, 0},
                    {finished_.get(), POLLIN, 0}};
    if (::poll(fds, 3, -1) < 0) continue;
    if (told_to_end) return {};
    if (fds[0].revents != 0) handle_power_notice();
    if (fds[1].revents != 0) handle_notices();
    if (fds[2].revents != 0) {
      std::uint64_t count = 0;
      (void)!::read(finished_.get(), &count, sizeof(count));
      supervisor_->bury();
    }
    refresh_health();
  }
}

// Ends without unwinding: everything that this process leaves behind must be fit for its sudden
// death anyway, and a wait for what is under way would only make the next agent late.
[[noreturn]] void leave(int code) {
  spdlog::default_logger()->flush();
  ::_exit(code);
}

}  // namespace

fs::path default_criu_prefix() {
  if (const char* prefix = std::getenv("BATON_CRIU")) return prefix;
  std::error_code error;
  const fs::path beside = fs::read_symlink("/proc/self/exe", error).parent_path() / "criu";
  if (!error && fs::exists(beside, error)) return beside;
  return "/usr/local/lib/baton/criu";
}

void add_options(CLI::App& app, AgentOptions& options) {
  app.add_option("--controller", options.controller,
                 "The controller: HOST:PORT or the path of a socket")
      ->envname("BATON_CONTROLLER")
      ->capture_default_str();
  app.add_option("--join", options.join,
                 "File with a token of `baton token create --node`, or - for standard input; read "
                 "when this node is in no cluster yet");
  app.add_flag("--insecure", options.insecure,
               "The controller is on loopback and was started with --insecure: no TLS");
  app.add_option("--data", options.data,
                 "Folder for jobs and their checkpoints; not on an overlay filesystem")
      ->capture_default_str();
  app.add_option("--name", options.name, "Name of this node. Default: the host name");
  app.add_option("--address", options.address, "Address of this node, for people to read");
  app.add_option("--criu,--criu-prefix", options.criu_prefix,
                 "Folder with CRIU and its libraries. Default: $BATON_CRIU, else \"criu\" beside "
                 "this program, else /usr/local/lib/baton/criu");
  app.add_option("--node-cgroup", options.node_cgroup,
                 "Control group that is this node, below the hierarchies' mount points; "
                 "utilization is measured against its CPU quota. Default: the agent's own");
  app.add_flag("--kill-jobs-on-exit", options.kill_jobs_on_exit,
               "End all jobs here at SIGTERM. Default: they run on, and the next agent takes them "
               "over if it comes before their lease runs out");
  app.add_option("--standby-limit", options.standby_limit_bytes,
                 "Most that this node keeps of checkpoints of jobs that run elsewhere, such as "
                 "20GB. Default: until 5 % of the disk are left")
      ->transform(CLI::AsSizeValue(false));
  app.add_option(
         "--standby-memory", options.standby_memory_bytes,
         "Memory in which this node keeps the pages of such jobs decompressed, so that they "
         "are at work sooner when they come here, such as 4GB; 0: none. Default: an eighth "
         "of what is free")
      ->transform(CLI::AsSizeValue(false));
  app.add_option("--bandwidth", options.bandwidth,
                 "Most that checkpoints may take of the network, in bytes per second and in each "
                 "direction, such as 50MB. A job that stands still for one does not wait. "
                 "Default: no limit")
      ->transform(CLI::AsSizeValue(false));
  app.add_option("--log-level", options.log_level, "trace, debug, info, warn or error")
      ->capture_default_str();
}

int run_agent(AgentOptions options) {
  if (options.name.empty()) {
    char name[256] = {};
    ::gethostname(name, sizeof(name) - 1);
    options.name = name;
  }
  if (options.criu_prefix.empty()) options.criu_prefix = default_criu_prefix();
  log_init(fmt::format("agent {}", options.name), options.log_level);
  wire::wait_apart();
  // Before there is any thread.
  if (const auto kept = sys::keep_capabilities(sys::kAgentCapabilities))
    spdlog::info("capabilities kept: {}", sys::capability_names(*kept));
  else
    spdlog::warn("capabilities are kept: {}", kept.error().message());
  const bool kill_jobs = options.kill_jobs_on_exit;
  // Never destroyed: see leave().
  auto* agent = new Agent(std::move(options));
  Status status = agent->prepare();
  if (status) status = agent->run();
  if (!status) {
    spdlog::error("{}", status.error().message());
    leave(1);
  }
  if (kill_jobs) agent->kill_jobs();
  spdlog::info("{}", kill_jobs ? "leaving, jobs ended" : "leaving, jobs run on");
  leave(0);
}

int agent_main(int argc, char** argv) {
  CLI::App app{"Run jobs on this node, as a controller orders", "baton agent"};
  AgentOptions options;
  add_options(app, options);
  CLI11_PARSE(app, argc, argv);
  return run_agent(std::move(options));
}

}  // namespace baton::agent
