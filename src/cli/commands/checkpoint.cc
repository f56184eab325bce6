// baton checkpoint: take one now.
#include <memory>

#include "cli/commands/commands.h"
#include "cli/session.h"
#include "cli/terminal.h"
#include "cli/units.h"

namespace baton::cli {
namespace {

struct Options {
  std::string job;
  bool json = false;
};

Result<int> checkpoint(Session& session, const Options& options) {
  v1::CheckpointRequest request;
  request.mutable_job()->set_name_or_id(options.job);
  BATON_TRY(const v1::Checkpoint taken, session.call_long(&v1::Api::Stub::TakeCheckpoint, request));
  if (options.json)
    print_json(to_json(taken));
  else
    fmt::print("checkpoint {} of {}: {}, the job stood still for {}\n", taken.number(), options.job,
               format_size(taken.size_bytes()), format_duration_ms(taken.frozen_ms()));
  return 0;
}

}  // namespace

void add_checkpoint(Program& program) {
  auto options = std::make_shared<Options>();
  auto* command = add_command(
      program, "checkpoint",
      "Take a checkpoint of a job now, beside those of its interval. The job pauses for it and "
      "goes on, also when it fails. Returns when the checkpoint is durable at the controller.");
  command->add_option("JOB", options->job, "Name or id.")->required();
  command->add_flag("--json", options->json, "As JSON.");
  on(program, command, [options](Session& session) { return checkpoint(session, *options); });
}

}  // namespace baton::cli
