#include "control/record_codec.h"

#include <nlohmann/json.hpp>

#include "control/convert.h"

namespace baton::control {
namespace {

using nlohmann::json;

std::string dump(const json& value) {
  return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

json encode(const core::Policy& p) {
  return {{"cpu_threshold", p.cpu_threshold},
          {"cpu_for_ms", p.cpu_for_ms},
          {"cpu_clear", p.cpu_clear},
          {"cooldown_ms", p.cooldown_ms},
          {"memory_threshold", p.memory_threshold},
          {"memory_for_ms", p.memory_for_ms},
          {"health_failures", p.health_failures},
          {"keep_checkpoints", p.keep_checkpoints},
          {"keep_hourly", p.keep_hourly},
          {"keep_daily", p.keep_daily},
          {"migrate_on_overload", p.migrate_on_overload},
          {"recover_on_node_lost", p.recover_on_node_lost},
          {"standby", p.standby}};
}

json encode(const core::IncarnationRecord& i) {
  return {{"node", i.node.value},
          {"generation", i.generation.value},
          {"state", static_cast<int>(i.state)}};
}

json encode(const core::AttemptRecord& a) {
  return {{"node", a.node.value},
          {"generation", a.generation.value},
          {"from", a.from.value},
          {"cause", static_cast<int>(a.cause)}};
}

// Takes typed fields out of an object; remembers whether one had the wrong type.
class Fields {
 public:
  explicit Fields(const json& object) : object_(object) {
    if (!object.is_object()) ok_ = false;
  }

  template <typename T>
  void get(const char* name, T& into) {
    const json* value = find(name);
    if (!value) return;
    if constexpr (std::is_same_v<T, bool>) {
      if (check(value->is_boolean())) into = value->get<bool>();
    } else if constexpr (std::is_same_v<T, std::string>) {
      if (check(value->is_string())) into = value->get<std::string>();
    } else if constexpr (std::is_enum_v<T>) {
      if (check(value->is_number_integer())) into = static_cast<T>(value->get<int>());
    } else {
      if (check(value->is_number())) into = value->get<T>();
    }
  }
  template <typename Tag, typename Value>
  void get(const char* name, Named<Tag, Value>& into) {
    get(name, into.value);
  }
  const json* find(const char* name) const {
    auto found = object_.is_object() ? object_.find(name) : object_.end();
    return found == object_.end() || found->is_null() ? nullptr : &*found;
  }
  bool check(bool right) {
    ok_ = ok_ && right;
    return right;
  }
  bool ok() const { return ok_; }

 private:
  const json& object_;
  bool ok_ = true;
};

bool decode(const json& object, core::Policy& p) {
  Fields fields(object);
  fields.get("cpu_threshold", p.cpu_threshold);
  fields.get("cpu_for_ms", p.cpu_for_ms);
  fields.get("cpu_clear", p.cpu_clear);
  fields.get("cooldown_ms", p.cooldown_ms);
  fields.get("memory_threshold", p.memory_threshold);
  fields.get("memory_for_ms", p.memory_for_ms);
  fields.get("health_failures", p.health_failures);
  fields.get("keep_checkpoints", p.keep_checkpoints);
  fields.get("keep_hourly", p.keep_hourly);
  fields.get("keep_daily", p.keep_daily);
  fields.get("migrate_on_overload", p.migrate_on_overload);
  fields.get("recover_on_node_lost", p.recover_on_node_lost);
  fields.get("standby", p.standby);
  return fields.ok();
}

bool decode(const json& object, core::IncarnationRecord& i) {
  Fields fields(object);
  fields.get("node", i.node);
  fields.get("generation", i.generation);
  fields.get("state", i.state);
  return fields.ok();
}

bool decode(const json& object, core::AttemptRecord& a) {
  Fields fields(object);
  fields.get("node", a.node);
  fields.get("generation", a.generation);
  fields.get("from", a.from);
  fields.get("cause", a.cause);
  return fields.ok();
}

std::unexpected<Error> damaged(std::string_view what) {
  return fail(ErrorCode::Damaged, fmt::format("database: a {} record can't be read", what));
}

}  // namespace

std::string encode_record(const core::JobRecord& r) {
  json object = {{"id", r.id.value},
                 {"name", r.name},
                 {"memory_bytes", r.needs.memory_bytes},
                 {"cpus", r.needs.cpus},
                 {"wanted_node", r.needs.wanted_node.value},
                 {"restart", static_cast<int>(r.restart)},
                 {"restart_limit", r.restart_limit},
                 {"policy", encode(r.policy)},
                 {"state", static_cast<int>(r.state)},
                 {"reason", r.reason},
                 {"next_generation", r.next_generation.value},
                 {"output_generation", r.output_generation.value},
                 {"output_floor", r.output_floor},
                 {"is_protected", r.is_protected},
                 {"unprotected_cause", r.unprotected_cause},
                 {"preflight_failed", r.preflight_failed},
                 {"restarts", r.restarts},
                 {"failed_attempts", r.failed_attempts},
                 {"desired_stop", r.desired_stop},
                 {"remove_when_ended", r.remove_when_ended},
                 {"last_error", r.last_error},
                 {"last_error_log", r.last_error_log}};
  if (r.current) object["current"] = encode(*r.current);
  if (r.attempt) object["attempt"] = encode(*r.attempt);
  if (r.exit_code) object["exit_code"] = *r.exit_code;
  return dump(object);
}

Result<core::JobRecord> decode_job_record(std::string_view text) {
  json object = json::parse(text, nullptr, false);
  core::JobRecord r;
  Fields fields(object);
  fields.get("id", r.id);
  fields.get("name", r.name);
  fields.get("memory_bytes", r.needs.memory_bytes);
  fields.get("cpus", r.needs.cpus);
  fields.get("wanted_node", r.needs.wanted_node);
  fields.get("restart", r.restart);
  fields.get("restart_limit", r.restart_limit);
  fields.get("state", r.state);
  fields.get("reason", r.reason);
  fields.get("next_generation", r.next_generation);
  fields.get("output_generation", r.output_generation);
  fields.get("output_floor", r.output_floor);
  fields.get("is_protected", r.is_protected);
  fields.get("unprotected_cause", r.unprotected_cause);
  fields.get("preflight_failed", r.preflight_failed);
  fields.get("restarts", r.restarts);
  fields.get("failed_attempts", r.failed_attempts);
  fields.get("desired_stop", r.desired_stop);
  fields.get("remove_when_ended", r.remove_when_ended);
  fields.get("last_error", r.last_error);
  fields.get("last_error_log", r.last_error_log);
  if (const json* policy = fields.find("policy")) fields.check(decode(*policy, r.policy));
  if (const json* current = fields.find("current"))
    fields.check(decode(*current, r.current.emplace()));
  if (const json* attempt = fields.find("attempt"))
    fields.check(decode(*attempt, r.attempt.emplace()));
  if (fields.find("exit_code")) fields.get("exit_code", r.exit_code.emplace());
  if (!fields.ok() || r.id.value == 0) return damaged("job");
  return r;
}

std::string encode_record(const core::NodeRecord& r) {
  return dump({{"name", r.facts.id.value},
               {"cpus", r.facts.cpus},
               {"memory_bytes", r.facts.memory_bytes},
               {"criu_version", r.facts.criu_version},
               {"cpu_features", r.facts.cpu_features.names()},
               {"cgroup_limits", r.facts.cgroup_limits},
               {"boot_id", r.boot_id},
               {"lost", r.lost},
               {"cordoned", r.cordoned},
               {"draining", r.draining}});
}

Result<core::NodeRecord> decode_node_record(std::string_view text) {
  json object = json::parse(text, nullptr, false);
  core::NodeRecord r;
  Fields fields(object);
  fields.get("name", r.facts.id);
  fields.get("cpus", r.facts.cpus);
  fields.get("memory_bytes", r.facts.memory_bytes);
  fields.get("criu_version", r.facts.criu_version);
  fields.get("cgroup_limits", r.facts.cgroup_limits);
  fields.get("boot_id", r.boot_id);
  fields.get("lost", r.lost);
  fields.get("cordoned", r.cordoned);
  fields.get("draining", r.draining);
  core::CpuFeatures::Names names;
  if (const json* features = fields.find("cpu_features"); features && features->is_array())
    for (const auto& feature : *features)
      if (fields.check(feature.is_string())) names.insert(feature);
  r.facts.cpu_features = shared_features(std::move(names));
  if (!fields.ok() || r.facts.id.value.empty()) return damaged("node");
  return r;
}

}  // namespace baton::control
