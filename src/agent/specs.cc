#include "agent/specs.h"

namespace baton::agent {

SandboxSpec sandbox_spec(const NodeContext& node, const pb::JobSpec& spec, JobId job,
                         Generation generation, const std::filesystem::path& directory) {
  SandboxSpec result;
  result.job = job;
  result.generation = generation;
  result.directory = directory;
  result.base = spec.rootfs().empty() ? node.base : std::filesystem::path(spec.rootfs());
  result.criu_prefix = node.criu_prefix;
  for (const auto& volume : spec.volumes())
    result.volumes.push_back({volume.host_path(), volume.sandbox_path(), volume.read_only()});
  result.limits = {spec.memory_bytes(), spec.cpus()};
  result.cgroup_parent = node.cgroup_parent;
  result.hostname = spec.name();
  result.data_directory = node.data;
  result.criu_kdat_cache = node.data / "criu.kdat";
  result.newest_lease_deadline = [&lease = node.lease] { return lease.deadline_ns(); };
  return result;
}

void apply_plan(const RestorePlan& plan, SandboxSpec& spec) {
  spec.overlay_paths = plan.overlay_paths;
  spec.populate_uppers = plan.populate_uppers;
  spec.hostname = plan.hostname;
}

Result<CommandSpec> command_spec(const pb::JobSpec& spec) {
  CommandSpec command;
  command.argv.assign(spec.argv().begin(), spec.argv().end());
  command.env.insert(spec.env().begin(), spec.env().end());
  if (!spec.workdir().empty()) command.workdir = spec.workdir();
  command.user = spec.user();
  command.stdin_data = spec.stdin_data();
  command.hostname = spec.name();
  command.new_privileges = spec.new_privileges();
  for (const std::string& name : spec.capabilities()) {
    BATON_TRY(const sys::Capabilities asked, sys::capability_named(name));
    command.capabilities |= asked;
  }
  // The others are the most that a job may have, and need not be there.
  const sys::Capabilities asked = command.capabilities & ~sys::kJobCapabilities;
  if (const auto missing = asked & ~sys::own_capabilities(); missing != 0)
    return fail(ErrorCode::Unfit, fmt::format("this node can't give a job the capabilities {}",
                                              sys::capability_names(missing)));
  return command;
}

}  // namespace baton::agent
