// baton restore: go back to a checkpoint.
#include <memory>

#include "cli/commands/commands.h"
#include "cli/moved.h"
#include "cli/session.h"

namespace baton::cli {
namespace {

struct Options {
  std::string job;
  std::uint64_t checkpoint = 0;
  std::string to;
  bool json = false;
};

Result<int> restore(Session& session, const Options& options) {
  v1::RestoreRequest request;
  request.mutable_job()->set_name_or_id(options.job);
  request.set_checkpoint(options.checkpoint);
  request.set_to(options.to);
  BATON_TRY(const v1::MoveReply reply, session.call_long(&v1::Api::Stub::Restore, request));
  return report_move(reply, options.json);
}

}  // namespace

void add_restore(Program& program) {
  auto options = std::make_shared<Options>();
  auto* command = add_command(
      program, "restore",
      "Take a job back to a checkpoint: a running one is ended first and what it did since is "
      "lost, its output included; one that has ended is revived.");
  command->add_option("JOB", options->job, "Name or id.")->required();
  command
      ->add_option("--checkpoint", options->checkpoint,
                   "Number of the checkpoint, see `baton checkpoints`. Default: the newest.")
      ->check(whole_number(1));
  command->add_option("--to", options->to, "Target node. Default: the controller chooses.");
  command->add_flag("--json", options->json, "As JSON.");
  on(program, command, [options](Session& session) { return restore(session, *options); });
}

}  // namespace baton::cli
