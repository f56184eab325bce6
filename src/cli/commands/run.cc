// baton run: submit a command, show its output, end with its exit code.
#include <csignal>
#include <memory>

#include "cli/commands/commands.h"
#include "cli/follow.h"
#include "cli/job_spec.h"
#include "cli/session.h"
#include "cli/terminal.h"

namespace baton::cli {
namespace {

constexpr const char* kHelp =
    R"(Run a command on a node and keep it alive: baton run [OPTIONS] [--] CMD [ARGS...]. It is
checkpointed at intervals, and moved when its node is overloaded, drained, about to fail
or lost.

Everything after CMD belongs to it, byte for byte; options of Baton come before.

Without --detach the output is shown here and `baton run` ends with the job's exit
code (125: Baton itself failed). Standard output and error come together, in their
order. Output appears once a checkpoint covers it, so that nothing shown is ever taken
back; --live shows it at once, and what a lost node printed after its last checkpoint
is then shown again. Ctrl-C leaves the job running and says how to see or stop it.

The job sees only this environment: PATH (the usual one), LANG (yours, else C.UTF-8),
HOME, USER and LOGNAME (of its user) and what --env adds. It runs in this directory, which must exist on
the node (or in the --rootfs; there the default is /), in a private copy of the node's
files: what it writes stays with the job, except in a --volume.)";

struct Options {
  SpecOptions spec;
  bool detach = false;
  bool live = false;
  bool json = false;
};

Result<int> attach(Session& session, const v1::Job& job, bool live) {
  session.catch_interrupts();
  const auto id = std::to_string(job.id());
  Status shown = follow_output(session, {.job = id, .follow = true, .live = live});
  Result<v1::Job> last = shown ? await_end(session, id, 0) : fail(std::move(shown).error());
  if (session.interrupted()) {
    fmt::print(stderr,
               "\nbaton: {} goes on without you. See it: baton logs -f {}   Stop it: baton stop "
               "{}\n",
               job.spec().name(), job.spec().name(), job.spec().name());
    return 128 + SIGINT;
  }
  if (!last) return fail(std::move(last).error());
  return exit_code_of(*last);
}

Result<int> run(Session& session, const Options& options, const v1::JobSpec& spec) {
  v1::RunRequest request;
  *request.mutable_spec() = spec;
  BATON_TRY(const v1::Job job, session.call(&v1::Api::Stub::Run, request));
  if (job.state() == v1::JOB_PENDING && !job.reason().empty())
    print_error(fmt::format("{} waits: {}", job.spec().name(), job.reason()));
  if (!options.detach) return attach(session, job, options.live);
  if (options.json)
    print_json(to_json(job));
  else
    fmt::print("{}\n", job.spec().name());
  return 0;
}

}  // namespace

void add_run(Program& program) {
  auto options = std::make_shared<Options>();
  auto& spec = options->spec;
  auto* command = add_command(program, "run", kHelp);
  command->add_option("--name", spec.name, "Unique name of the job. Default: one is made up.");
  command->add_option("--interval", spec.interval,
                      "Time between checkpoints: at most so much work is lost with a node, and the "
                      "job pauses so often. Default: 5s.");
  command->add_flag("--no-checkpoint", spec.no_checkpoint,
                    "Take none: a lost node loses the job. Planned moves still work.");
  command->add_option("--node", spec.node, "Start there. Default: the controller chooses.");
  command->add_option("-e,--env", spec.env, "KEY=VALUE, or KEY to hand on yours. May be repeated.")
      ->allow_extra_args(false);
  command->add_option("--workdir", spec.workdir, "Working directory. Default: this one.");
  command->add_option("--user", spec.user, "USER[:GROUP], names or numbers. Default: root.");
  command->add_flag("--new-privileges", spec.new_privileges,
                    "Let sudo, su and other set-user-id programs in it work. Default: no program "
                    "in it gets rights that its user lacks.");
  command
      ->add_option("--cap-add", spec.capabilities,
                   "A capability such as SYS_NICE or NET_ADMIN (capabilities(7)), which also its "
                   "processes of user root lack without. May be repeated. Default: what container "
                   "engines give, but for MKNOD.")
      ->allow_extra_args(false);
  command->add_option("--rootfs", spec.rootfs,
                      "Directory on the node that is / for the job. Default: the node's own root.");
  command
      ->add_option("--volume", spec.volumes,
                   "HOST:JOB[:ro], absolute paths: a directory of the node shared with the job. It "
                   "is in no checkpoint and must exist on every node. May be repeated.")
      ->allow_extra_args(false);
  command->add_option("--memory", spec.memory, "Limit, such as 512MiB. Default: none.");
  command->add_option("--cpu", spec.cpus, "Limit in CPUs, such as 1.5. Default: none.");
  command->add_option("--restart", spec.restart,
                      "When it ends with a failure: never, checkpoint (go on from the newest "
                      "checkpoint, else from the start) or scratch. Add :N to limit the attempts "
                      "(default 3). Default: never.");
  command->add_option("--stdin", spec.stdin_file,
                      "File that becomes its standard input (64 MiB at most). Default: none.");
  command
      ->add_option("--policy", spec.policy,
                   "KEY=VALUE over the cluster's policy, for this job alone: cpu_threshold=0.9, "
                   "keep_checkpoints=5, keep_hourly=24 and keep_daily=7 (besides the newest 5, the "
                   "newest of each of the last 24 hours and 7 days that have one, in UTC), "
                   "migrate_on_overload=false ... May be repeated.")
      ->allow_extra_args(false);
  command->add_flag("-d,--detach", options->detach, "Print its name and return at once.");
  command->add_flag("--live", options->live, "Show output before a checkpoint covers it.");
  command->add_flag("--json", options->json, "With --detach: print the job as JSON.");
  command->callback([&program, options] {
    if (program.passthrough().empty()) throw CLI::RequiredError("run: a command to run");
    auto spec = make_spec(options->spec, program.passthrough());
    if (!spec) throw CLI::ValidationError("run: " + spec.error().message(), kExitUsage);
    run_command(
        program, [&](Session& session) { return run(session, *options, *spec); }, kExitBaton);
  });
}

}  // namespace baton::cli
