#include "control/validate.h"

#include <algorithm>
#include <cmath>

#include "sys/capabilities.h"
#include "wire/channel.h"

namespace baton::control {
namespace {

constexpr std::size_t kMaxArguments = 65'536;
constexpr std::size_t kMaxArgumentBytes = 2 << 20;
constexpr std::size_t kMaxVolumes = 256;
constexpr std::size_t kMaxCapabilityName = 64;
constexpr int kMaxCapabilities = 64;                  // the kernel has 41
constexpr std::size_t kMaxHealthCommandBytes = 4096;  // each node is told of it
constexpr std::uint64_t kMinMemoryBytes = 1 << 20;
constexpr double kMinCpus = 0.01;
constexpr double kMaxCpus = 65'536;
constexpr std::uint32_t kMaxKeepCheckpoints = 1'000;

template <typename... Args>
std::unexpected<Error> bad(fmt::format_string<Args...> format, Args&&... args) {
  return fail(ErrorCode::InvalidArgument, fmt::format(format, std::forward<Args>(args)...));
}

bool has_nul(std::string_view text) { return text.find('\0') != std::string_view::npos; }

Status check_absolute(std::string_view what, std::string_view path) {
  if (!path.starts_with('/')) return bad("{} \"{}\" is not an absolute path", what, path);
  if (has_nul(path)) return bad("{} has a NUL byte in it", what);
  if (path.size() >= 4096) return bad("{} is longer than 4095 bytes", what);
  return {};
}

Status check_arguments(const v1::JobSpec& spec) {
  if (spec.argv_size() == 0 || spec.argv(0).empty()) return bad("there is no command to run");
  if (static_cast<std::size_t>(spec.argv_size()) > kMaxArguments)
    return bad("more than {} arguments", kMaxArguments);
  std::size_t bytes = 0;
  for (const auto& argument : spec.argv()) {
    if (has_nul(argument)) return bad("an argument has a NUL byte in it, which no program can get");
    bytes += argument.size() + 1;
  }
  for (const auto& [name, value] : spec.env()) {
    if (name.empty() || name.find('=') != std::string::npos || has_nul(name))
      return bad("\"{}\" is not a name for an environment variable", name);
    if (has_nul(value))
      return bad("the value of environment variable {} has a NUL byte in it", name);
    bytes += name.size() + value.size() + 2;
  }
  if (bytes > kMaxArgumentBytes)
    return bad("arguments and environment have {} bytes; {} are the most", bytes,
               kMaxArgumentBytes);
  if (spec.stdin_data().size() > wire::kMaxStdinBytes)
    return bad("standard input has {} bytes; {} are the most", spec.stdin_data().size(),
               wire::kMaxStdinBytes);
  return {};
}

Status check_user(std::string_view user) {
  if (user.empty()) return {};
  auto colon = user.find(':');
  if (colon == 0 || colon == user.size() - 1 || user.size() > 128 || has_nul(user) ||
      user.find(':', colon == std::string_view::npos ? 0 : colon + 1) != std::string_view::npos ||
      user.find_first_of("/ \n\t") != std::string_view::npos)
    return bad("user \"{}\" is not NAME, UID, NAME:GROUP or UID:GID", user);
  return {};
}

Status check_paths(const v1::JobSpec& spec) {
  if (!spec.workdir().empty()) BATON_CHECK(check_absolute("working directory", spec.workdir()));
  if (!spec.rootfs().empty()) BATON_CHECK(check_absolute("root filesystem", spec.rootfs()));
  if (static_cast<std::size_t>(spec.volumes_size()) > kMaxVolumes)
    return bad("more than {} volumes", kMaxVolumes);
  for (const auto& volume : spec.volumes()) {
    BATON_CHECK(check_absolute("a volume's path on the host", volume.host_path()));
    BATON_CHECK(check_absolute("a volume's path in the job", volume.sandbox_path()));
    if (volume.sandbox_path() == "/") return bad("a volume can't replace the job's whole root");
  }
  return {};
}

Status check_resources(const v1::JobSpec& spec) {
  if (spec.memory_bytes() != 0 && spec.memory_bytes() < kMinMemoryBytes)
    return bad("a memory limit of {} bytes is below the least, 1 MiB", spec.memory_bytes());
  if (spec.memory_bytes() > (std::uint64_t{1} << 50)) return bad("a memory limit above 1 PiB");
  if (!std::isfinite(spec.cpus()) ||
      (spec.cpus() != 0 && (spec.cpus() < kMinCpus || spec.cpus() > kMaxCpus)))
    return bad("a limit of {} CPUs is not between {} and {}", spec.cpus(), kMinCpus, kMaxCpus);
  if (spec.interval_ms() != 0 && spec.interval_ms() < kMinIntervalMs)
    return bad("a checkpoint interval of {} ms is below the least, {} ms", spec.interval_ms(),
               kMinIntervalMs);
  if (!v1::RestartPolicy_IsValid(spec.restart()))
    return bad("there is no restart policy {}", static_cast<int>(spec.restart()));
  return {};
}

Status check_capabilities(const v1::JobSpec& spec) {
  if (spec.capabilities_size() > kMaxCapabilities)
    return bad("{} capabilities are more than there are", spec.capabilities_size());
  for (const std::string& name : spec.capabilities()) {
    if (name.size() > kMaxCapabilityName)
      return bad("there is no capability with such a long name");
    BATON_TRY(const sys::Capabilities asked, sys::capability_named(name));
    if (asked & ~sys::kAgentCapabilities)
      return bad("no job can have the capability {}", sys::capability_names(asked));
  }
  return {};
}

Status check_fraction(std::string_view what, double value) {
  if (!(value > 0 && value <= 1)) return bad("{} is {}, not above 0 and up to 1", what, value);
  return {};
}

bool is_name(std::string_view name) {
  auto fits = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '.' || c == '-';
  };
  return !name.empty() && name.size() <= 63 && std::ranges::all_of(name, fits) && name != "." &&
         name != ".." && !name.starts_with('-');
}

}  // namespace

Status check_node_name(std::string_view name) {
  if (is_name(name)) return {};
  return bad(
      "\"{}\" is not a node name: 1 to 63 letters, digits, '_', '.' and '-', not beginning "
      "with '-'",
      name);
}

Status check_job_name(std::string_view name) {
  if (!is_name(name))
    return bad(
        "\"{}\" is not a job name: 1 to 63 letters, digits, '_', '.' and '-', not beginning "
        "with '-'",
        name);
  if (std::ranges::all_of(name, [](char c) { return c >= '0' && c <= '9'; }))
    return bad("\"{}\" is not a job name: digits alone mean a job's number", name);
  return {};
}

Status check_pin_name(std::string_view name) {
  if (is_name(name)) return {};
  return bad(
      "\"{}\" is not a name for a pin: 1 to 63 letters, digits, '_', '.' and '-', not beginning "
      "with '-'",
      name);
}

Status check_policy(const v1::Policy& policy) {
  if (policy.has_cpu_threshold())
    BATON_CHECK(check_fraction("the CPU threshold", policy.cpu_threshold()));
  if (policy.has_cpu_clear()) BATON_CHECK(check_fraction("the CPU clear mark", policy.cpu_clear()));
  if (policy.has_cpu_threshold() && policy.has_cpu_clear() &&
      policy.cpu_clear() > policy.cpu_threshold())
    return bad("the CPU clear mark {} is above the threshold {}", policy.cpu_clear(),
               policy.cpu_threshold());
  if (policy.has_memory_threshold())
    BATON_CHECK(check_fraction("the memory threshold", policy.memory_threshold()));
  if (policy.has_keep_checkpoints() &&
      (policy.keep_checkpoints() == 0 || policy.keep_checkpoints() > kMaxKeepCheckpoints))
    return bad("{} checkpoints to keep is not between 1 and {}", policy.keep_checkpoints(),
               kMaxKeepCheckpoints);
  for (std::uint32_t kept : {policy.keep_hourly(), policy.keep_daily()})
    if (kept > kMaxKeepCheckpoints)
      return bad("{} hourly or daily checkpoints to keep are more than {}", kept,
                 kMaxKeepCheckpoints);
  if (policy.has_health_failures() && policy.health_failures() == 0)
    return bad("0 failures of the health command would make every node fail");
  if (policy.health_command().size() > kMaxHealthCommandBytes)
    return bad("the health command has {} bytes, more than {}; put it into a script",
               policy.health_command().size(), kMaxHealthCommandBytes);
  if (has_nul(policy.health_command())) return bad("the health command has a NUL byte in it");
  return {};
}

Status check_job_count(std::size_t known, std::size_t most) {
  if (known < most) return {};
  return fail(ErrorCode::FailedPrecondition,
              fmt::format("{} jobs are known, as many as may be (--most-jobs of the controller); "
                          "remove some that have ended (baton rm)",
                          known));
}

Status check_job_spec(const v1::JobSpec& spec) {
  if (!spec.name().empty()) BATON_CHECK(check_job_name(spec.name()));
  BATON_CHECK(check_arguments(spec));
  BATON_CHECK(check_user(spec.user()));
  BATON_CHECK(check_paths(spec));
  BATON_CHECK(check_resources(spec));
  BATON_CHECK(check_capabilities(spec));
  return check_policy(spec.policy());
}

}  // namespace baton::control
