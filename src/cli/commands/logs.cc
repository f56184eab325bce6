// baton logs: what a job has printed.
#include <memory>

#include "cli/commands/commands.h"
#include "cli/follow.h"
#include "cli/session.h"

namespace baton::cli {
namespace {

Result<int> logs(Session& session, const OutputOptions& options) {
  v1::JobRef ref;
  ref.set_name_or_id(options.job);
  BATON_CHECK(session.call(&v1::Api::Stub::GetJob, ref));
  BATON_CHECK(follow_output(session, options));
  return 0;
}

}  // namespace

void add_logs(Program& program) {
  auto options = std::make_shared<OutputOptions>();
  auto* command = add_command(
      program, "logs",
      "Print a job's output, standard output and error in their order, every byte once, wherever "
      "it ran. With -f, output appears once a checkpoint covers it, so that nothing is ever taken "
      "back; --live shows it at once.");
  command->add_option("JOB", options->job, "Name or id.")->required();
  command->add_flag("-f,--follow", options->follow, "Go on until the job has ended.");
  command->add_flag("--live", options->live,
                    "With -f: show output before a checkpoint covers it. After a rollback, stderr "
                    "says so and the job's new output follows.");
  command->add_option("--offset", options->offset, "Start at this byte. Default: 0.")
      ->check(whole_number());
  on(program, command, [options](Session& session) { return logs(session, *options); });
}

}  // namespace baton::cli
