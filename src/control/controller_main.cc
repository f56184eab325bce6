#include "control/controller_main.h"

#include <CLI/CLI.hpp>
#include <csignal>

#include "base/log.h"
#include "base/version.h"
#include "control/controller.h"
#include "sys/capabilities.h"
#include "sys/limits.h"
#include "sys/priority.h"

namespace baton::control {
namespace {

// A duration option that ends in a uint32 field of the policy or the options.
void add_duration(CLI::App& app, const std::string& name, const std::string& help,
                  std::function<void(std::uint32_t)> store) {
  app.add_option_function<std::string>(
      name,
      [name, store = std::move(store)](const std::string& text) {
        auto value = parse_duration_ms(text);
        if (!value) throw CLI::ValidationError(name, value.error().message());
        store(*value);
      },
      help);
}

void add_policy_options(CLI::App& app, v1::Policy& policy) {
  auto number = [&](const std::string& name, const std::string& help, auto store) {
    app.add_option_function<double>(name, std::move(store), help);
  };
  number("--cpu-threshold",
         "CPU utilization (0 to 1) above which a node is overloaded. Default: 0.85.",
         [&](double value) { policy.set_cpu_threshold(value); });
  add_duration(app, "--cpu-for", "... for so long. Default: 5s.",
               [&](std::uint32_t ms) { policy.set_cpu_for_ms(ms); });
  number("--cpu-clear",
         "Below this the overload is over. Default: 0.70, or the threshold if that is lower.",
         [&](double value) { policy.set_cpu_clear(value); });
  add_duration(app, "--cooldown", "Least time between two policy moves of one job. Default: 1m.",
               [&](std::uint32_t ms) { policy.set_cooldown_ms(ms); });
  number("--memory-threshold", "Memory use (0 to 1) that is too much. Default: 0.95.",
         [&](double value) { policy.set_memory_threshold(value); });
  add_duration(app, "--memory-for", "... for so long. Default: 10s.",
               [&](std::uint32_t ms) { policy.set_memory_for_ms(ms); });
  app.add_option_function<std::string>(
      "--health-command", [&](const std::string& text) { policy.set_health_command(text); },
      "Run by sh -c on every node; when it fails, the node is about to fail. Default: none.");
  add_duration(app, "--health-interval", "Time between two runs of it. Default: 5s.",
               [&](std::uint32_t ms) { policy.set_health_interval_ms(ms); });
  app.add_option_function<std::uint32_t>(
      "--health-failures", [&](const std::uint32_t& value) { policy.set_health_failures(value); },
      "So many failures in a row. Default: 3.");
  app.add_option_function<std::uint32_t>(
      "--keep-checkpoints", [&](const std::uint32_t& value) { policy.set_keep_checkpoints(value); },
      "Newest checkpoints kept per job. Default: 3.");
  app.add_option_function<std::uint32_t>(
      "--keep-hourly", [&](const std::uint32_t& value) { policy.set_keep_hourly(value); },
      "Besides these, the newest of each of the last so many hours (UTC) that have one. Default: "
      "0.");
  app.add_option_function<std::uint32_t>(
      "--keep-daily", [&](const std::uint32_t& value) { policy.set_keep_daily(value); },
      "The same for days. Default: 0.");
  app.add_flag_function(
      "--no-standby", [&](std::int64_t) { policy.set_standby(false); },
      "Do not keep each job's newest checkpoint ready on a second node.");
}

void add_key_options(CLI::App& app, ControllerOptions& options) {
  auto* file = app.add_option(
      "--store-key-file", options.store_key.file,
      "Encrypt checkpoints in the data directory, under the key in this file: 32 bytes, or 64 "
      "hexadecimal digits, or base64. Only its owner may be able to read it, and it does not "
      "belong into the data directory. Checkpoints from before stay as they are. Without the key "
      "nothing is readable: keep a copy. Default: no encryption.");
  auto* command = app.add_option(
      "--store-key-command", options.store_key.command,
      "The same key from what this command prints, run by sh -c when the controller starts; or a "
      "JSON list of words, run without a shell.");
  auto* old_file = app.add_option(
      "--old-store-key-file", options.old_store_key.file,
      "The key that the one above takes the place of. Given once, at the start that changes it; "
      "no checkpoint is written anew.");
  auto* old_command =
      app.add_option("--old-store-key-command", options.old_store_key.command, "The same.");
  file->excludes(command);
  old_file->excludes(old_command);
}

}  // namespace

void add_options(CLI::App& app, ControllerOptions& options) {
  app.add_option("--data", options.data,
                 "Directory for state, checkpoints and output. Default: "
                 "/var/lib/baton/controller.");
  app.add_option("--listen", options.listen,
                 "HOST:PORT where agents connect, by TLS with certificates on both sides (`baton "
                 "token create`); may be repeated. Default: 127.0.0.1:7077.");
  app.add_option("--listen-api", options.listen_api,
                 "The same for users, beside the socket; may be repeated. Default: none.");
  app.add_flag("--insecure", options.insecure,
               "No TLS and no certificates on these ports, which then have to be on loopback. For "
               "tests.");
  app.add_option("--socket", options.socket,
                 "Unix socket for users and agents of this machine, mode 0600. Default: "
                 "baton.sock in the data directory.");
  add_duration(app, "--lease",
               "How long a node may run its jobs after its last heartbeat; a lost node is noticed "
               "after that. Default: 3s.",
               [&](std::uint32_t ms) { options.lease_ms = ms; });
  app.add_option("--most-jobs", options.most_jobs,
                 "So many jobs are known at most, those that have ended and were not removed among "
                 "them; no more are taken then. Default: 100000.");
  app.add_option("--policy", options.policy_file,
                 "TOML file with the cluster's policy. The options below override it.");
  add_key_options(app, options);
  app.add_option("--log-level", options.log_level, "trace, debug, info, warn or error.")
      ->check(CLI::IsMember({"trace", "debug", "info", "warn", "error"}))
      ->capture_default_str();
  add_policy_options(app, options.policy);
}

int run_controller(const ControllerOptions& options) {
  log_init("controller", options.log_level);
  // One for each job's output, and some for each node's connections.
  if (auto status = sys::allow_many_descriptors(); !status)
    spdlog::warn("{}", status.error().message());
  // Before any thread exists, as what follows. All of them: gRPC lets any thread of its own carry
  // a heartbeat, and nodes must not look lost because jobs keep this machine busy.
  sys::prefer_thread();
  if (const auto kept = sys::keep_capabilities(sys::kControllerCapabilities))
    spdlog::info("capabilities kept: {}", sys::capability_names(*kept));
  else
    spdlog::warn("capabilities are kept: {}", kept.error().message());
  // So that all threads leave these to sigwait().
  sigset_t signals;
  ::sigemptyset(&signals);
  ::sigaddset(&signals, SIGTERM);
  ::sigaddset(&signals, SIGINT);
  ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  ::signal(SIGPIPE, SIG_IGN);
  auto controller = Controller::start(options);
  if (!controller) {
    spdlog::error("{}", controller.error().message());
    return 1;
  }
  spdlog::info("baton {} is ready, data in {}, lease {} ms", kVersion, options.data.string(),
               options.lease_ms);
  int signal = 0;
  ::sigwait(&signals, &signal);
  spdlog::info("stopping: {}", ::strsignal(signal));
  return 0;
}

int controller_main(int argc, char** argv) {
  CLI::App app("The controller of a Baton cluster.", "baton controller");
  ControllerOptions options;
  add_options(app, options);
  CLI11_PARSE(app, argc, argv);
  return run_controller(options);
}

}  // namespace baton::control
