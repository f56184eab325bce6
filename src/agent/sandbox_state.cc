#include "agent/sandbox_state.h"

#include <sys/stat.h>

#include <nlohmann/json.hpp>

#include "sys/file.h"

namespace baton::agent {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr char kFile[] = "spec.json";

json volumes_json(const std::vector<Volume>& volumes) {
  json list = json::array();
  for (const Volume& volume : volumes)
    list.push_back({{"host_path", volume.host_path.native()},
                    {"sandbox_path", volume.sandbox_path.native()},
                    {"read_only", volume.read_only}});
  return list;
}

json overlays_json(const std::vector<OverlayTree>& overlays) {
  json list = json::array();
  for (const OverlayTree& overlay : overlays)
    list.push_back({{"path", overlay.path.native()},
                    {"lower", overlay.lower.native()},
                    {"tree", overlay.tree},
                    {"work", overlay.work}});
  return list;
}

SandboxState from_json(const json& j, const fs::path& directory) {
  SandboxState state;
  SandboxSpec& spec = state.spec;
  spec.job = JobId(j.at("job").get<std::uint64_t>());
  spec.generation = Generation(j.at("generation").get<std::uint64_t>());
  spec.directory = directory;
  spec.base = j.at("base").get<std::string>();
  spec.criu_prefix = j.at("criu_prefix").get<std::string>();
  for (const json& v : j.at("volumes"))
    spec.volumes.push_back({v.at("host_path").get<std::string>(),
                            v.at("sandbox_path").get<std::string>(),
                            v.at("read_only").get<bool>()});
  spec.limits.memory_bytes = j.at("memory_bytes").get<std::uint64_t>();
  spec.limits.cpus = j.at("cpus").get<double>();
  spec.cgroup_parent = j.at("cgroup_parent").get<std::string>();
  spec.hostname = j.at("hostname").get<std::string>();
  spec.data_directory = j.at("data_directory").get<std::string>();
  spec.criu_kdat_cache = j.at("criu_kdat_cache").get<std::string>();
  state.cgroup = j.at("cgroup").get<std::string>();
  spec.overlay_paths.emplace();
  for (const json& o : j.at("overlays")) {
    state.layout.overlays.push_back(
        {o.at("path").get<std::string>(), o.at("lower").get<std::string>(),
         o.at("tree").get<std::string>(), o.at("work").get<std::string>()});
    if (state.layout.overlays.back().path != "/")
      spec.overlay_paths->push_back(state.layout.overlays.back().path);
  }
  return state;
}

}  // namespace

Status save_state(const SandboxState& state) {
  const SandboxSpec& spec = state.spec;
  const json j{{"job", spec.job.value},
               {"generation", spec.generation.value},
               {"base", spec.base.native()},
               {"criu_prefix", spec.criu_prefix.native()},
               {"volumes", volumes_json(spec.volumes)},
               {"memory_bytes", spec.limits.memory_bytes},
               {"cpus", spec.limits.cpus},
               {"cgroup_parent", spec.cgroup_parent},
               {"cgroup", state.cgroup},
               {"hostname", spec.hostname},
               {"data_directory", spec.data_directory.native()},
               {"criu_kdat_cache", spec.criu_kdat_cache.native()},
               {"overlays", overlays_json(state.layout.overlays)}};
  // Paths are bytes; those that are no UTF-8 must not make this throw.
  return sys::write_file_durable(
      spec.directory / kFile, j.dump(2, ' ', false, json::error_handler_t::replace) + "\n", 0600);
}

Result<SandboxState> load_state(const fs::path& directory) {
  const fs::path file = directory / kFile;
  BATON_TRY(const std::string text, sys::read_file(file));
  const json j = json::parse(text, nullptr, false);
  // nlohmann reports a field that is missing or of another type by an exception.
  try {
    return from_json(j, directory);
  } catch (const json::exception& error) {
    return fail(ErrorCode::Damaged, fmt::format("{}: {}", file.string(), error.what()));
  }
}

}  // namespace baton::agent
