#include "control/options.h"

#include <google/protobuf/util/json_util.h>

#include <charconv>
#include <cmath>
#define TOML_EXCEPTIONS 0
#include <toml++/toml.h>

#include <nlohmann/json.hpp>
#include <sstream>

#include "control/convert.h"
#include "control/validate.h"
#include "sys/file.h"

namespace baton::control {
namespace {

constexpr std::uint64_t kMaxPolicyBytes = 1 << 20;
constexpr std::uint32_t kDefaultHealthIntervalMs = 5'000;

// The wire's own JSON mapping knows the fields, their types and their ranges.
Result<v1::Policy> from_json(const nlohmann::json& json, const std::string& name) {
  v1::Policy policy;
  google::protobuf::util::JsonParseOptions options;
  options.ignore_unknown_fields = false;
  auto status = google::protobuf::util::JsonStringToMessage(json.dump(), &policy, options);
  if (!status.ok())
    return fail(ErrorCode::InvalidArgument, fmt::format("{}: {}", name, status.ToString()));
  BATON_CHECK_CTX(check_policy(policy), name);
  return policy;
}

}  // namespace

Result<v1::Policy> parse_policy(std::string_view text, const std::string& name) {
  toml::parse_result parsed = toml::parse(text, name);
  if (!parsed)
    return fail(ErrorCode::InvalidArgument,
                fmt::format("{}, line {}: {}", name, parsed.error().source().begin.line,
                            parsed.error().description()));
  nlohmann::json json = nlohmann::json::object();
  for (const auto& [key, value] : parsed.table()) {
    std::string field(key.str());
    if (const auto* number = value.as_floating_point()) {
      json[field] = number->get();
    } else if (const auto* integer = value.as_integer()) {
      json[field] = integer->get();
    } else if (const auto* flag = value.as_boolean()) {
      json[field] = flag->get();
    } else if (const auto* string = value.as_string()) {
      json[field] = string->get();
    } else {
      return fail(ErrorCode::InvalidArgument,
                  fmt::format("{}, line {}: {} has a value of the wrong kind", name,
                              value.source().begin.line, field));
    }
    if (!v1::Policy::descriptor()->FindFieldByName(field))
      return fail(ErrorCode::InvalidArgument, fmt::format("{}, line {}: a policy has no field {}",
                                                          name, value.source().begin.line, field));
  }
  return from_json(json, name);
}

Result<v1::Policy> load_policy(const std::filesystem::path& path) {
  BATON_TRY(std::string text, sys::read_file(path, kMaxPolicyBytes));
  return parse_policy(text, path.string());
}

Result<v1::Policy> cluster_policy(const ControllerOptions& options) {
  v1::Policy given;
  if (!options.policy_file.empty()) {
    BATON_TRY(given, load_policy(options.policy_file));
  }
  given.MergeFrom(options.policy);
  BATON_CHECK(check_policy(given));
  v1::Policy policy = to_wire(merge(core::Policy(), given));
  policy.set_health_command(given.health_command());
  policy.set_health_interval_ms(given.has_health_interval_ms() ? given.health_interval_ms()
                                                               : kDefaultHealthIntervalMs);
  BATON_CHECK(check_policy(policy));
  return policy;
}

Result<std::uint32_t> parse_duration_ms(const std::string& text) {
  double value = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  std::string_view unit(end, static_cast<std::size_t>(text.data() + text.size() - end));
  double scale = unit == "ms"                 ? 1
                 : unit == "s"                ? 1e3
                 : unit == "m"                ? 60e3
                 : unit == "h"                ? 3'600e3
                 : unit.empty() && value == 0 ? 1
                                              : 0;
  double ms = value * scale;
  if (error != std::errc() || scale == 0 || !(ms >= 0) || ms > 4e9)
    return fail(ErrorCode::InvalidArgument,
                fmt::format("\"{}\" is not a duration such as 500ms, 3s or 2m", text));
  return static_cast<std::uint32_t>(std::llround(ms));
}

}  // namespace baton::control
