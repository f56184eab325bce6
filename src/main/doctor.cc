#include "main/doctor.h"

#include <fmt/format.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "agent/options.h"
#include "agent/probe.h"
#include "base/log.h"
#include "base/version.h"
#include "sys/capabilities.h"
#include "sys/cgroup.h"
#include "sys/userfaultfd.h"

namespace baton {
namespace {

struct Options {
  std::filesystem::path criu_prefix;
  std::filesystem::path probe_only;
  bool json = false;
};

// One thing looked at. A machine with a needed one missing can't be a node.
struct Check {
  std::string name;
  bool ok = false;
  bool needed = false;
  std::string detail;
};

Check check_root() {
  const bool root = ::geteuid() == 0;
  return {"root", root, true,
          root ? "yes" : "an agent needs root: it makes namespaces, mounts and control groups"};
}

// What is missing may never be missed: a job can't be given it, and CRIU does without where it can.
Check check_capabilities() {
  const sys::Capabilities missing = sys::kAgentCapabilities & ~sys::own_capabilities();
  return {"capabilities", missing == 0, false,
          missing == 0
              ? "all that an agent keeps; it gives the others up"
              : "not here, though an agent would keep them: " + sys::capability_names(missing)};
}

Check check_kernel() {
  utsname name{};
  ::uname(&name);
  return {"kernel", true, true, fmt::format("{} {}", name.sysname, name.release)};
}

Check check_criu(const std::filesystem::path& prefix, const Result<agent::ProbeReport>& report) {
  Check check{"criu", false, true, ""};
  if (!report) {
    check.detail = report.error().message();
    return check;
  }
  check.ok = report->ok;
  const std::string version =
      report->criu_version.empty() ? prefix.string() : "CRIU " + report->criu_version;
  check.detail = report->ok
                     ? fmt::format("{} checkpointed and restored a test program (tier {}; {})",
                                   version, report->tier, fmt::join(report->abilities, ", "))
                     : fmt::format("{}: {}. scripts/provision-criu fetches one that works", version,
                                   report->why);
  return check;
}

Check check_tracking() {
  const sys::TrackingAbility ability = sys::probe_tracking();
  return {"page tracking", ability.available, false,
          ability.available ? "the kernel can tell which pages a program wrote" : ability.reason};
}

// The second best.
Check check_soft_dirty(const Result<agent::ProbeReport>& report) {
  const bool known = report && report->ok;
  const bool available = known && agent::has_soft_dirty(*report);
  return {"soft-dirty", available, false,
          available ? "where pages can't be tracked, CRIU dumps those written since its last dump"
          : known   ? "the kernel does not mark written pages for CRIU (CONFIG_MEM_SOFT_DIRTY). "
                      "Where they can't be tracked, checkpoints copy all memory"
                    : "unknown without a CRIU that works"};
}

// Makes a group and sets a limit, which is what an agent will do.
Check check_limit(const char* name, Status (*set)(const sys::Cgroup&)) {
  const auto path = fmt::format("baton-doctor-{}", ::getpid());
  auto group = sys::Cgroup::create(path);
  if (!group) return {name, false, false, group.error().message()};
  const Status limited = set(*group);
  const Status removed = group->remove();
  if (!limited) return {name, false, false, limited.error().message()};
  if (!removed) return {name, false, false, removed.error().message()};
  return {name, true, false, "can be limited per job"};
}

std::vector<Check> examine(const Options& options) {
  const auto prefix =
      options.criu_prefix.empty() ? agent::default_criu_prefix() : options.criu_prefix;
  std::vector<Check> checks = {check_root(), check_capabilities(), check_kernel()};
  const auto report = agent::probe_criu(prefix);
  checks.push_back(check_criu(prefix, report));
  checks.push_back(check_tracking());
  checks.push_back(check_soft_dirty(report));
  checks.push_back(
      check_limit("cpu", [](const sys::Cgroup& group) { return group.set_cpu_quota(1); }));
  checks.push_back(check_limit(
      "memory", [](const sys::Cgroup& group) { return group.set_memory_limit(64 << 20); }));
  return checks;
}

int print(const std::vector<Check>& checks, bool json) {
  bool healthy = true;
  auto list = nlohmann::ordered_json::array();
  for (const Check& check : checks) {
    healthy = healthy && (check.ok || !check.needed);
    list.push_back({{"check", check.name},
                    {"ok", check.ok},
                    {"needed", check.needed},
                    {"detail", check.detail}});
    if (!json)
      fmt::print("{:<14} {:<8} {}\n", check.name,
                 check.ok       ? "ok"
                 : check.needed ? "MISSING"
                                : "no",
                 check.detail);
  }
  if (json)
    fmt::print(
        "{}\n",
        nlohmann::ordered_json({{"version", kVersion}, {"ok", healthy}, {"checks", list}}).dump(2));
  else
    fmt::print("\n{}\n", healthy ? "This machine can be a node."
                                 : "This machine can't be a node: see MISSING above.");
  return healthy ? 0 : 1;
}

// For scripts/provision-criu: one probe, its report as JSON on stdout.
int probe_only(const std::filesystem::path& prefix) {
  const auto report = agent::probe_criu(prefix);
  if (!report) {
    fmt::print(stderr, "baton: {}\n", report.error().message());
    return 1;
  }
  fmt::print("{}\n", agent::to_json(*report));
  if (!report->ok) fmt::print(stderr, "baton: {}\n", report->why);
  return report->ok ? 0 : 1;
}

}  // namespace

void add_doctor(CLI::App& app, int& exit_code) {
  auto options = std::make_shared<Options>();
  auto* command =
      app.add_subcommand("doctor", "Say what this machine can do as a node, and what it lacks");
  command->footer(
      "Tries things instead of asking for versions: checkpoints and restores a small program,\n"
      "makes a control group and sets limits. Leaves nothing behind. Exit code 1 when something\n"
      "is missing that a node needs.");
  command->add_option("--criu-prefix", options->criu_prefix,
                      "Directory of the CRIU to try. Default: the agent's");
  command->add_option("--probe-criu", options->probe_only,
                      "Only try this CRIU and print the report as JSON");
  command->add_flag("--json", options->json, "As JSON");
  command->callback([options, &exit_code] {
    log_init("doctor", "warn");
    exit_code = options->probe_only.empty() ? print(examine(*options), options->json)
                                            : probe_only(options->probe_only);
  });
}

}  // namespace baton
