#include "up/cluster.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "base/log.h"
#include "sys/file.h"
#include "up/child.h"
#include "up/network.h"
#include "up/tool.h"

namespace baton::up {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kStateAgainMs = 500;

// Where a child of ours finds its gate.
constexpr int kGateFd = 3;
constexpr auto kControllerGrace = std::chrono::seconds(10);

Result<Fd> take_signals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int number : {SIGINT, SIGTERM, SIGHUP}) sigaddset(&set, number);
  if (::sigprocmask(SIG_BLOCK, &set, nullptr) != 0) return fail_errno("block signals");
  Fd fd(::signalfd(-1, &set, SFD_CLOEXEC));
  if (!fd.valid()) return fail_errno("signalfd");
  return fd;
}

// Starts this program so that it waits for `gate`, in its own session and process group: Ctrl-C
// on our terminal is ours alone.
Result<sys::Spawned> spawn_gated(const std::vector<std::string>& arguments, const Gate& gate,
                                 std::uint64_t clone_flags, const std::vector<Fd>& cgroup_files) {
  sys::SpawnRequest request = ourselves(arguments);
  request.fds = {{gate.child_end(), kGateFd}};
  request.clone_flags = clone_flags;
  for (const Fd& file : cgroup_files) request.cgroup_procs_fds.push_back(file.get());
  return sys::spawn(request);
}

// As they were given.
std::vector<std::string> key_arguments(const Options& options) {
  std::vector<std::string> arguments;
  auto add = [&](const char* option, const std::string& value) {
    if (!value.empty()) arguments.insert(arguments.end(), {option, value});
  };
  auto absolute = [](const fs::path& path) {
    return path.empty() ? std::string() : fs::absolute(path).string();
  };
  add("--store-key-file", absolute(options.store_key_file));
  add("--store-key-command", options.store_key_command);
  add("--old-store-key-file", absolute(options.old_store_key_file));
  add("--old-store-key-command", options.old_store_key_command);
  return arguments;
}

// Without it a lease is renewed when other work lets it.
bool allow_real_time(const fs::path& path, double share) {
  const auto group = sys::Cgroup::open(path);
  const Status allowed = group ? group->allow_real_time(share) : Status(fail(group.error()));
  if (!allowed)
    spdlog::warn("no real-time priority in {}: {}", path.string(), allowed.error().message());
  return allowed.has_value();
}

}  // namespace

Status Cluster::start() {
  if (options_.ready_fd >= 0) {
    ready_fd_ = Fd(options_.ready_fd);
    if (::fcntl(ready_fd_.get(), F_SETFD, FD_CLOEXEC) != 0) return fail_errno("--ready-fd");
  }
  BATON_TRY(signals_, take_signals());
  BATON_CHECK(claim());
  BATON_CHECK_CTX(enter_cluster_network(), "network of the cluster");
  BATON_CHECK_CTX(start_controller(), "start the controller");
  BATON_CHECK(describe_nodes());
  BATON_TRY(const bool go_on, make_join_tokens());
  if (!go_on) return {};
  for (int index = 0; index < options_.nodes; ++index)
    BATON_CHECK_CTX(start_node(index), fmt::format("start node-{}", index + 1));
  return start_waiting();
}

Status Cluster::claim() {
  BATON_TRY(const Fd turn, take_turn());
  remove_orphans();
  BATON_TRY(auto data, DataDirectory::claim(options_.data));
  data_.emplace(std::move(data));
  auto group = ClusterGroup::create();
  if (!group) {
    spdlog::warn("nodes have no CPU quota: {}", group.error().message());
    return {};
  }
  group_.emplace(std::move(*group));
  real_time_ = allow_real_time(group_->path(), real_time_share() * options_.nodes);
  return {};
}

double Cluster::quota() const {
  if (options_.cpu_quota > 0) return options_.cpu_quota;
  const double cpus = static_cast<double>(::sysconf(_SC_NPROCESSORS_ONLN));
  return std::min(1.0, cpus / options_.nodes);
}

// Of each processor, for a node's lease: little, and all nodes together leave others enough. A
// thread that has used it up stands still, so that a tiny share would be worse than none.
double Cluster::real_time_share() const {
  constexpr double kNode = 0.05, kAllNodes = 0.4, kLeast = 0.02;
  const double share = std::min(kNode, kAllNodes / options_.nodes);
  return share < kLeast ? 0 : share;
}

Status Cluster::start_controller() {
  const auto data = data_->path() / "controller";
  BATON_CHECK(sys::make_directories(data, 0700));
  std::vector<std::string> arguments = {"up-child",
                                        "--go-fd",
                                        std::to_string(kGateFd),
                                        "--",
                                        "controller",
                                        "--data",
                                        data.string(),
                                        "--socket",
                                        socket().string(),
                                        "--listen",
                                        fmt::format("{}:{}", kControllerAddress, kControllerPort)};
  if (!options_.lease.empty()) arguments.insert(arguments.end(), {"--lease", options_.lease});
  if (!options_.policy.empty())
    arguments.insert(arguments.end(), {"--policy", fs::absolute(options_.policy).string()});
  for (const auto& argument : key_arguments(options_)) arguments.push_back(argument);
  BATON_TRY(Gate gate, Gate::create());
  BATON_TRY(controller_, spawn_gated(arguments, gate, 0, {}));
  controller_respawn_.started();
  return gate.open();
}

Status Cluster::make_group(Node& node) {
  if (!group_) return {};
  const auto path = group_->path() / node.name;
  BATON_TRY(const sys::Cgroup group, sys::Cgroup::create(path));
  if (auto limited = group.set_cpu_quota(quota()); !limited)
    spdlog::warn("{} has no CPU quota: {}", node.name, limited.error().message());
  if (real_time_) real_time_ = allow_real_time(path, real_time_share());
  node.cgroup = path.string();
  return {};
}

std::vector<std::string> Cluster::agent_arguments(const Node& node) const {
  std::vector<std::string> arguments = {"agent",
                                        "--name",
                                        node.name,
                                        "--controller",
                                        fmt::format("{}:{}", kControllerAddress, kControllerPort),
                                        "--data",
                                        node.data.string(),
                                        "--join",
                                        join_file(node).string(),
                                        "--address",
                                        node.address};
  if (!node.cgroup.empty()) arguments.insert(arguments.end(), {"--node-cgroup", node.cgroup});
  if (!options_.criu.empty())
    arguments.insert(arguments.end(), {"--criu-prefix", fs::absolute(options_.criu).string()});
  return arguments;
}

Status Cluster::describe_nodes() {
  for (int index = 0; index < options_.nodes; ++index) {
    Node& node = nodes_.emplace_back();
    node.name = fmt::format("node-{}", index + 1);
    node.address = node_address(index);
    node.data = data_->path() / node.name;
    BATON_CHECK(sys::make_directories(node.data, 0700));
    BATON_CHECK(make_group(node));
  }
  return {};
}

// As an administrator would for machines: one for each, through the socket that is root's alone.
Result<bool> Cluster::make_join_tokens() {
  std::vector<std::string> arguments = {"--controller", "unix:" + socket().string(), "join-tokens"};
  for (const Node& node : nodes_)
    arguments.push_back(fmt::format("{}={}", node.name, join_file(node).string()));
  BATON_TRY(const sys::Spawned child, sys::spawn(ourselves(arguments)));
  pollfd polled[] = {{child.pidfd.get(), POLLIN, 0},
                     {controller_->pidfd.get(), POLLIN, 0},
                     {signals_.get(), POLLIN, 0}};
  while (::poll(polled, std::size(polled), -1) < 0 && errno == EINTR) {
  }
  if (!polled[0].revents) (void)child.pidfd.signal(SIGKILL);
  const int status = reap(child.pid);
  if (polled[1].revents) BATON_CHECK(on_controller_ended());
  if (polled[2].revents) return false;
  if (status != 0) return fail(ErrorCode::Internal, "the nodes can't join, see above");
  return true;
}

Status Cluster::start_node(int index) {
  Node& node = nodes_[static_cast<std::size_t>(index)];
  std::vector<Fd> cgroup_files;
  if (!node.cgroup.empty()) {
    const fs::path path = fs::path(node.cgroup) / "agent";
    auto leaf_group = sys::Cgroup::create(path);
    if (!leaf_group && leaf_group.error().code() == ErrorCode::AlreadyExists)
      leaf_group = sys::Cgroup::open(path);  // it was on before
    BATON_TRY(const sys::Cgroup leaf, std::move(leaf_group));
    if (real_time_) (void)allow_real_time(path, real_time_share());
    BATON_TRY(cgroup_files, leaf.open_procs_files());
  }
  std::vector<std::string> arguments = {"up-node",
                                        "--name",
                                        node.name,
                                        "--address",
                                        node.address,
                                        "--go-fd",
                                        std::to_string(kGateFd)};
  if (options_.no_restart) arguments.push_back("--no-restart");
  arguments.push_back("--");
  for (const std::string& word : agent_arguments(node)) arguments.push_back(word);
  BATON_TRY(Gate gate, Gate::create());
  BATON_TRY(node.process,
            spawn_gated(arguments, gate,
                        CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET,
                        cgroup_files));
  node.up = true;
  BATON_CHECK(plug_in(index, node.process.pid));
  return gate.open();
}

Status Cluster::start_waiting() {
  std::vector<std::string> arguments = {"--controller", "unix:" + socket().string(), "await-nodes"};
  for (const Node& node : nodes_) arguments.push_back(node.name);
  BATON_TRY(ready_check_, sys::spawn(ourselves(arguments)));
  return {};
}

Status Cluster::serve() {
  for (;;) {
    std::vector<pollfd> polled = {{signals_.get(), POLLIN, 0}};
    polled.push_back({controller_ ? controller_->pidfd.get() : -1, POLLIN, 0});
    polled.push_back({ready_check_ ? ready_check_->pidfd.get() : -1, POLLIN, 0});
    for (const Node& node : nodes_)
      polled.push_back({node.up ? node.process.pidfd.get() : -1, POLLIN, 0});
    if (::poll(polled.data(), polled.size(), wait_ms()) < 0 && errno != EINTR)
      return fail_errno("poll");
    if (polled[0].revents) return {};
    if (polled[1].revents) BATON_CHECK(on_controller_ended());
    if (polled[2].revents) BATON_CHECK(on_ready_check_ended());
    for (std::size_t i = 0; i < nodes_.size(); ++i)
      if (polled[3 + i].revents) on_node_ended(static_cast<int>(i));
    BATON_CHECK(power_on());
    if (!controller_ && controller_respawn_.due()) {
      BATON_CHECK(start_controller());
      keep_state();
    }
    if (state_again_at_ms_ >= 0 && state_again_at_ms_ <= boot_time_ms()) keep_state();
  }
}

Status Cluster::on_ready_check_ended() {
  const int status = reap(ready_check_->pid);
  ready_check_.reset();
  if (status != 0) return fail(ErrorCode::TimedOut, "the cluster did not become ready, see above");
  ready_ = true;
  return announce();
}

Status Cluster::on_controller_ended() {
  const int status = reap(controller_->pid);
  controller_.reset();
  if (!ready_)
    return fail(ErrorCode::Internal, fmt::format("the controller did not start ({}), see above",
                                                 describe_wait_status(status)));
  spdlog::warn("the controller ended ({}){}", describe_wait_status(status),
               options_.no_restart ? "" : "; starting it again");
  if (options_.no_restart)
    controller_respawn_.never();
  else
    controller_respawn_.ended();
  keep_state();
  return {};
}

int Cluster::wait_ms() const {
  std::int64_t wait = controller_ ? -1 : controller_respawn_.wait_ms();
  for (const Node& node : nodes_) {
    if (node.power_on_at_ms < 0) continue;
    const auto left = std::max<std::int64_t>(0, node.power_on_at_ms - boot_time_ms());
    wait = wait < 0 ? left : std::min(wait, left);
  }
  if (state_again_at_ms_ >= 0) {
    const auto left = std::max<std::int64_t>(0, state_again_at_ms_ - boot_time_ms());
    wait = wait < 0 ? left : std::min(wait, left);
  }
  return static_cast<int>(wait);
}

Status Cluster::power_on() {
  bool changed = false;
  for (std::size_t i = 0; i < nodes_.size(); ++i) {
    Node& node = nodes_[i];
    if (node.power_on_at_ms < 0 || node.power_on_at_ms > boot_time_ms()) continue;
    node.power_on_at_ms = -1;
    BATON_CHECK_CTX(start_node(static_cast<int>(i)), fmt::format("start {} again", node.name));
    changed = true;
  }
  if (changed) keep_state();
  return {};
}

void Cluster::on_node_ended(int index) {
  Node& node = nodes_[static_cast<std::size_t>(index)];
  node.up = false;
  const bool returns = options_.power_on_after_ms >= 0;
  spdlog::warn("{} is gone ({}): a power cut; it {}", node.name,
               describe_wait_status(reap(node.process.pid)), returns ? "comes back" : "stays off");
  if (returns) {
    node.power_on_at_ms = boot_time_ms() + options_.power_on_after_ms;
    unplug(index);
  }
  keep_state();
}

// Scripts read it and nothing else needs it: a full disk must not end the cluster.
void Cluster::keep_state() {
  const bool again = state_again_at_ms_ >= 0;
  state_again_at_ms_ = -1;
  const Status written = write_state();
  if (written) return;
  if (!again)
    spdlog::warn("up.json is out of date until it can be written: {}", written.error().message());
  state_again_at_ms_ = boot_time_ms() + kStateAgainMs;
}

Status Cluster::write_state() const {
  const int controller = controller_ ? controller_->pid : 0;
  nlohmann::ordered_json state = {
      {"up_pid", ::getpid()},
      {"data", data_->path().string()},
      {"socket", socket().string()},
      {"address", fmt::format("{}:{}", kControllerAddress, kControllerPort)},
      {"controller_pid", controller},
      {"netns", fmt::format("/proc/{}/ns/net", ::getpid())},
      {"cgroup", group_ ? group_->path().string() : ""},
      {"nodes", nlohmann::ordered_json::array()},
  };
  for (const Node& node : nodes_)
    state["nodes"].push_back({{"name", node.name},
                              {"up", node.up},
                              {"pid", node.process.pid},
                              {"address", node.address},
                              {"netns", fmt::format("/proc/{}/ns/net", node.process.pid)},
                              {"cgroup", node.cgroup},
                              {"cpus", node.cgroup.empty() ? 0 : quota()},
                              {"data", node.data.string()}});
  return sys::write_file_durable(data_->path() / "up.json", state.dump(2) + "\n");
}

Status Cluster::announce() {
  BATON_CHECK(write_state());
  auto taken = DefaultSocket::take(socket());
  fmt::print("The cluster is ready: {} nodes, data in {}{}.\n", nodes_.size(),
             data_->path().string(), data_->temporary() ? " (removed at the end)" : "");
  fmt::print("  {:<11} {}:{}  pid {}\n", "controller", kControllerAddress, kControllerPort,
             controller_ ? controller_->pid : 0);
  for (const Node& node : nodes_)
    fmt::print("  {:<11} {}      pid {}{}\n", node.name, node.address, node.process.pid,
               node.cgroup.empty() ? "" : fmt::format("  {:.2g} CPU", quota()));
  if (taken) {
    default_socket_.emplace(std::move(*taken));
    fmt::print("In another shell: baton ps\n");
  } else {
    fmt::print("In another shell: export BATON_CONTROLLER=unix:{}\n", socket().string());
  }
  fmt::print("Ctrl-C ends everything.\n");
  std::fflush(stdout);
  if (!ready_fd_.valid()) return {};
  BATON_CHECK(sys::write_all(ready_fd_.get(), "ready\n"));
  ready_fd_.reset();
  return {};
}

void Cluster::stop_controller() {
  if (!controller_) return;
  (void)controller_->pidfd.signal(SIGTERM);
  if (!controller_->pidfd.wait_ended(kControllerGrace)) {
    spdlog::warn("the controller does not end; killing it");
    (void)controller_->pidfd.signal(SIGKILL);
  }
  reap(controller_->pid);
  controller_.reset();
}

Cluster::~Cluster() {
  if (ready_check_) {
    (void)ready_check_->pidfd.signal(SIGKILL);
    reap(ready_check_->pid);
  }
  // The controller first: it must not take the end of the cluster for the loss of its nodes.
  stop_controller();
  for (Node& node : nodes_)
    if (node.up) (void)node.process.pidfd.signal(SIGKILL);
  for (Node& node : nodes_)
    if (node.up) reap(node.process.pid);
  std::error_code ignored;
  if (!data_) return;
  std::filesystem::remove(socket(), ignored);
  std::filesystem::remove(data_->path() / "up.json", ignored);
}

}  // namespace baton::up
