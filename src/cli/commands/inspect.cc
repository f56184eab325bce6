// baton inspect: everything about one job.
#include <memory>

#include "base/clock.h"
#include "cli/checkpoint_ref.h"
#include "cli/commands/commands.h"
#include "cli/describe.h"
#include "cli/session.h"
#include "cli/terminal.h"
#include "cli/units.h"

namespace baton::cli {
namespace {

struct Options {
  std::string job;
  bool show_env = false;
  bool json = false;
};

void line(const char* name, const std::string& value) {
  if (!value.empty()) fmt::print("{:<14}{}\n", name, value);
}

void print_spec(const v1::JobSpec& spec) {
  line("Command", describe_command(spec));
  line("Directory", spec.workdir());
  line("User", spec.user());
  line("Root", spec.rootfs());
  for (const auto& [key, value] : spec.env()) line("Environment", key + "=" + format_word(value));
  for (const v1::Volume& volume : spec.volumes())
    line("Volume", fmt::format("{} at {}{}", volume.host_path(), volume.sandbox_path(),
                               volume.read_only() ? " (read-only)" : ""));
  if (spec.memory_bytes()) line("Memory limit", format_size(spec.memory_bytes()));
  if (spec.cpus() > 0) line("CPU limit", fmt::format("{}", spec.cpus()));
  if (!spec.stdin_data().empty()) line("Input", format_size(spec.stdin_data().size()));
  line("Checkpoints", spec.interval_ms() ? "every " + format_duration_ms(spec.interval_ms())
                                         : std::string("none (--no-checkpoint)"));
  if (spec.restart() != v1::RESTART_NEVER)
    line("Restart", fmt::format("{}, {} times at most",
                                enum_word(v1::RestartPolicy_descriptor(), spec.restart()),
                                spec.restart_limit()));
  const auto policy = to_json(spec.policy());
  for (const auto& [key, value] : policy.items())
    line("Policy", fmt::format("{} = {}", key, value.dump()));
}

void print_state(const v1::Job& job) {
  const std::int64_t now = wall_time_ms();
  line("Job", fmt::format("{} (id {})", job.spec().name(), job.id()));
  line("State", describe_state(job) + (job.reason().empty() ? "" : ": " + job.reason()));
  line("Node", job.node());
  line("Generation", std::to_string(job.generation()));
  line("Submitted", fmt::format("{} ({})", format_date(job.submitted_wall_ms()),
                                format_ago(job.submitted_wall_ms(), now)));
  if (job.ended_wall_ms())
    line("Ended", fmt::format("{} ({})", format_date(job.ended_wall_ms()),
                              format_ago(job.ended_wall_ms(), now)));
  if (job.restarts()) line("Restarts", std::to_string(job.restarts()));
  if (!has_ended(job)) {
    if (job.is_protected())
      line("Protected", job.tier().empty() ? "yes" : "yes, memory " + job.tier());
    else
      line("Protected",
           job.unprotected_cause().empty() ? "not yet" : "no: " + job.unprotected_cause());
    if (!job.standby().empty())
      line("Standby", job.standby_checkpoint() ? fmt::format("{}, has checkpoint {}", job.standby(),
                                                             job.standby_checkpoint())
                                               : job.standby() + ", has no checkpoint yet");
  }
  line("Output", fmt::format("{}, of which {} safe", format_size(job.output_bytes()),
                             format_size(job.output_safe_bytes())));
}

void indented(const std::string& text) {
  std::size_t at = 0;
  while (at < text.size()) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    fmt::print("  {}\n", text.substr(at, end - at));
    at = end + 1;
  }
}

Result<int> inspect(Session& session, const Options& options) {
  v1::JobRef ref;
  ref.set_name_or_id(options.job);
  BATON_TRY(const v1::Job job, session.call(&v1::Api::Stub::GetJob, ref));
  if (options.json) {
    print_json(to_json(job));
    return 0;
  }
  BATON_TRY(const v1::ListCheckpointsReply checkpoints,
            session.call(&v1::Api::Stub::ListCheckpoints, ref));
  print_state(job);
  print_spec(job.spec());
  line("Last error", job.last_error());
  if (!job.last_error_log().empty()) {
    fmt::print("\nCRIU's log, its end:\n");
    indented(job.last_error_log());
  }
  if (job.moves_size()) {
    fmt::print("\nMoves:\n");
    indented(moves_table(job));
  }
  if (checkpoints.checkpoints_size()) {
    fmt::print("\nCheckpoints:\n");
    indented(checkpoints_table(checkpoints));
  }
  return 0;
}

void print_process(const v1::ImageProcess& process, bool show_env) {
  std::string threads;
  for (const auto thread : process.threads()) threads += fmt::format(" {}", thread);
  fmt::print("\nProcess {} ({}), parent {}, {} of memory\n", process.pid(), process.command(),
             process.parent(), format_size(process.memory_bytes()));
  if (process.threads_size() > 1) fmt::print("  threads{}\n", threads);
  for (const v1::ImageVariable& variable : process.environment())
    fmt::print("  env {}={}\n", variable.name(),
               show_env ? format_word(variable.value()) : std::string("..."));
  for (const v1::ImageDescriptor& descriptor : process.descriptors())
    fmt::print("  fd {} {} {}\n", descriptor.fd(), descriptor.kind(), descriptor.what());
  for (const v1::ImageMapping& mapping : process.mappings())
    fmt::print("  {:012x}-{:012x} {} {}\n", mapping.start(), mapping.end(), mapping.access(),
               mapping.what());
  if (process.left_out()) fmt::print("  ... and {} more lines\n", process.left_out());
}

Result<int> inspect_checkpoint(Session& session, const Options& options,
                               const v1::CheckpointRef& ref) {
  v1::InspectRequest request;
  *request.mutable_checkpoint() = ref;
  request.set_show_env(options.show_env);
  BATON_TRY(const v1::CheckpointImage image, session.call_long(&v1::Store::Stub::Inspect, request));
  if (options.json) {
    print_json(to_json(image));
    return 0;
  }
  const v1::Checkpoint& info = image.info();
  line("Checkpoint", std::to_string(info.number()));
  line("Taken",
       fmt::format("{} on {} ({})", format_date(info.taken_wall_ms()), info.node(), info.cause()));
  line("Size", fmt::format("{}, of which {} were new", format_size(info.size_bytes()),
                           format_size(info.new_bytes())));
  line("Status", describe_quality(info));
  line("Memory", info.memory());
  line("CRIU", info.criu_version());
  for (const v1::ImageProcess& process : image.processes())
    print_process(process, options.show_env);
  if (image.left_out()) fmt::print("\n... and {} more processes\n", image.left_out());
  return 0;
}

}  // namespace

void add_inspect(Program& program) {
  auto options = std::make_shared<Options>();
  auto* command =
      add_command(program, "inspect",
                  "Show everything about a job: its state, why it is unprotected and the cure, its "
                  "moves with their timings, its checkpoints, and the last error with CRIU's "
                  "log.\n\nWith JOB@NUMBER what is in that checkpoint: processes, threads, "
                  "environment, descriptors and mappings, as CRIU's images at the controller have "
                  "them. The job itself is not touched.");
  command->add_option("JOB[@NUMBER]", options->job, "Name or id; @NUMBER: one of its checkpoints.")
      ->required();
  command->add_flag("--show-env", options->show_env,
                    "Of a checkpoint: show the values of environment variables, too, which may be "
                    "secrets. Default: their names alone.");
  command->add_flag("--json", options->json, "As JSON.");
  command->callback([&program, options] {
    auto ref = parse_checkpoint(options->job);
    if (!ref) throw CLI::ValidationError("inspect: " + ref.error().message(), kExitUsage);
    run_command(program, [&](Session& session) {
      return ref->number() ? inspect_checkpoint(session, *options, *ref)
                           : inspect(session, *options);
    });
  });
}

}  // namespace baton::cli
