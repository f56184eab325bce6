#include "cli/job_spec.h"

#include <google/protobuf/descriptor.h>
#include <unistd.h>

#include <charconv>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <limits>
#include <sstream>

#include "cli/units.h"
#include "wire/channel.h"

namespace baton::cli {
namespace {

constexpr const char* kPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
constexpr std::uint32_t kDefaultIntervalMs = 5'000;
constexpr std::uint32_t kDefaultRestartLimit = 3;

std::unexpected<Error> invalid(std::string message) {
  return fail(ErrorCode::InvalidArgument, std::move(message));
}

Result<std::uint32_t> interval_ms(const SpecOptions& options) {
  if (options.no_checkpoint) {
    if (!options.interval.empty()) return invalid("--interval contradicts --no-checkpoint");
    return 0;
  }
  if (options.interval.empty()) return kDefaultIntervalMs;
  auto ms = parse_duration_ms(options.interval);
  if (!ms) return fail(std::move(ms).error().context("--interval"));
  if (*ms <= 0 || *ms > std::numeric_limits<std::uint32_t>::max())
    return invalid(
        fmt::format("--interval {}: the interval must be at least 1ms and at most 49d "
                    "(--no-checkpoint takes none)",
                    options.interval));
  return static_cast<std::uint32_t>(*ms);
}

Status fill_env(const SpecOptions& options, v1::JobSpec& spec) {
  auto& env = *spec.mutable_env();
  env["PATH"] = kPath;
  const char* lang = std::getenv("LANG");
  env["LANG"] = lang && *lang ? lang : "C.UTF-8";
  for (const std::string& word : options.env) {
    const auto equals = word.find('=');
    const std::string key = word.substr(0, equals);
    if (key.empty()) return invalid(fmt::format("--env {}: write KEY=VALUE", format_word(word)));
    if (equals != std::string::npos) {
      env[key] = word.substr(equals + 1);
    } else if (const char* value = std::getenv(key.c_str())) {
      env[key] = value;
    }
  }
  return {};
}

Result<v1::Volume> parse_volume(const std::string& text) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, ':');) parts.push_back(part);
  const bool has_mode = parts.size() == 3;
  if (parts.size() < 2 || parts.size() > 3 || (has_mode && parts[2] != "ro" && parts[2] != "rw"))
    return invalid(fmt::format("--volume {}: write HOST:JOB or HOST:JOB:ro", text));
  for (int i = 0; i < 2; ++i)
    if (!parts[i].starts_with('/'))
      return invalid(fmt::format("--volume {}: \"{}\" is not an absolute path", text, parts[i]));
  v1::Volume volume;
  volume.set_host_path(parts[0]);
  volume.set_sandbox_path(parts[1]);
  volume.set_read_only(has_mode && parts[2] == "ro");
  return volume;
}

Status fill_restart(const std::string& text, v1::JobSpec& spec) {
  const auto colon = text.find(':');
  const std::string word = text.substr(0, colon);
  if (word.empty() || word == "never") {
    spec.set_restart(v1::RESTART_NEVER);
  } else if (word == "checkpoint") {
    spec.set_restart(v1::RESTART_CHECKPOINT);
  } else if (word == "scratch") {
    spec.set_restart(v1::RESTART_SCRATCH);
  } else {
    return invalid(fmt::format("--restart {}: choose never, checkpoint or scratch", text));
  }
  std::uint32_t limit = kDefaultRestartLimit;
  if (colon != std::string::npos) {
    const char* end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data() + colon + 1, end, limit);
    if (error != std::errc() || stop != end || limit == 0)
      return invalid(fmt::format("--restart {}: \"{}\" is not a number of attempts", text,
                                 text.substr(colon + 1)));
  }
  if (spec.restart() != v1::RESTART_NEVER) spec.set_restart_limit(limit);
  return {};
}

Result<double> parse_cpus(const std::string& text) {
  char* end = nullptr;
  const double cpus = std::strtod(text.c_str(), &end);
  if (*end != '\0' || !std::isfinite(cpus) || cpus <= 0)
    return invalid(fmt::format("--cpu {}: write a number of CPUs, such as 0.5 or 2", text));
  return cpus;
}

Result<std::string> read_stdin_file(const std::string& path) {
  std::error_code problem;
  if (std::filesystem::is_directory(path, problem))
    return invalid(fmt::format("--stdin {}: it is a directory", path));
  std::ifstream file(path, std::ios::binary);
  if (!file) return fail(Error::from_errno(fmt::format("--stdin {}", path)));
  std::string data;
  std::vector<char> block(1 << 20);
  while (file.read(block.data(), static_cast<std::streamsize>(block.size())) || file.gcount()) {
    data.append(block.data(), static_cast<std::size_t>(file.gcount()));
    if (data.size() > wire::kMaxStdinBytes)
      return invalid(
          fmt::format("--stdin {}: more than {}", path, format_size(wire::kMaxStdinBytes)));
  }
  return data;
}

// The schema's own field names are the keys, as in a cluster's policy file.
Status set_policy(const std::string& text, v1::Policy& policy) {
  using google::protobuf::FieldDescriptor;
  const auto equals = text.find('=');
  const std::string key = text.substr(0, equals);
  const auto* field = v1::Policy::descriptor()->FindFieldByName(key);
  if (equals == std::string::npos || !field)
    return invalid(fmt::format("--policy {}: \"{}\" is no policy; write KEY=VALUE", text, key));
  const std::string value = text.substr(equals + 1);
  const auto wrong = [&] {
    return invalid(fmt::format("--policy {}: \"{}\" is not a value for {}", text, value, key));
  };
  const auto* reflection = policy.GetReflection();
  char* end = nullptr;
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_DOUBLE: {
      const double number = std::strtod(value.c_str(), &end);
      if (value.empty() || *end || !std::isfinite(number) || number < 0) return wrong();
      reflection->SetDouble(&policy, field, number);
      return {};
    }
    case FieldDescriptor::CPPTYPE_UINT32: {
      std::uint32_t number = 0;
      const char* last = value.data() + value.size();
      const auto [stop, error] = std::from_chars(value.data(), last, number);
      if (error != std::errc() || stop != last) return wrong();
      reflection->SetUInt32(&policy, field, number);
      return {};
    }
    case FieldDescriptor::CPPTYPE_BOOL:
      if (value != "true" && value != "false") return wrong();
      reflection->SetBool(&policy, field, value == "true");
      return {};
    default: reflection->SetString(&policy, field, value); return {};
  }
}

Result<std::string> workdir_of(const SpecOptions& options) {
  if (!options.workdir.empty()) {
    if (!options.workdir.starts_with('/'))
      return invalid(fmt::format("--workdir {}: not an absolute path", options.workdir));
    return options.workdir;
  }
  if (!options.rootfs.empty()) return "/";
  std::error_code problem;
  const auto here = std::filesystem::current_path(problem);
  if (problem) return invalid("the current directory is gone; choose one with --workdir");
  return here.string();
}

}  // namespace

Result<v1::JobSpec> make_spec(const SpecOptions& options, const std::vector<std::string>& command) {
  v1::JobSpec spec;
  spec.set_name(options.name);
  for (const std::string& word : command) spec.add_argv(word);
  if (spec.argv_size() == 0 || spec.argv(0).empty()) return invalid("a command is missing");
  BATON_TRY(const std::uint32_t interval, interval_ms(options));
  spec.set_interval_ms(interval);
  spec.set_node(options.node);
  BATON_CHECK(fill_env(options, spec));
  BATON_TRY(*spec.mutable_workdir(), workdir_of(options));
  spec.set_user(options.user);
  spec.set_new_privileges(options.new_privileges);
  for (const std::string& name : options.capabilities) spec.add_capabilities(name);
  if (!options.rootfs.empty() && !options.rootfs.starts_with('/'))
    return invalid(fmt::format("--rootfs {}: not an absolute path", options.rootfs));
  spec.set_rootfs(options.rootfs);
  for (const std::string& text : options.volumes) {
    BATON_TRY(*spec.add_volumes(), parse_volume(text));
  }
  if (!options.memory.empty()) {
    auto bytes = parse_size_bytes(options.memory);
    if (!bytes) return fail(std::move(bytes).error().context("--memory"));
    if (*bytes == 0) return invalid("--memory 0: leave the option out for no limit");
    spec.set_memory_bytes(*bytes);
  }
  if (!options.cpus.empty()) {
    BATON_TRY(const double cpus, parse_cpus(options.cpus));
    spec.set_cpus(cpus);
  }
  BATON_CHECK(fill_restart(options.restart, spec));
  if (!options.stdin_file.empty()) {
    BATON_TRY(*spec.mutable_stdin_data(), read_stdin_file(options.stdin_file));
  }
  for (const std::string& text : options.policy)
    BATON_CHECK(set_policy(text, *spec.mutable_policy()));
  return spec;
}

}  // namespace baton::cli
