// baton verify: read checkpoints and compare them with their hashes.
#include <memory>

#include "cli/commands/commands.h"
#include "cli/session.h"
#include "cli/verified.h"

namespace baton::cli {
namespace {

struct Options {
  std::string job;
  std::uint64_t number = 0;
  bool all = false;
  bool json = false;
};

Result<int> verify(Session& session, const Options& options) {
  v1::VerifyRequest request;
  if (!options.all) request.mutable_job()->set_name_or_id(options.job);
  request.set_number(options.number);
  BATON_TRY(const VerifyTotals totals, show_verification(session, request, options.json));
  if (!options.json && totals.checkpoints == 0) fmt::print("there are no checkpoints\n");
  return totals.damaged ? kExitFailure : 0;
}

}  // namespace

void add_verify(Program& program) {
  auto options = std::make_shared<Options>();
  auto* command = add_command(
      program, "verify",
      "Read every byte of checkpoints at the controller and compare with the hashes that were "
      "made of them when they were taken. Names each file that is missing or damaged, and ends "
      "with 1 when there is one. Running jobs are not disturbed, but for the disk.\n\nA damaged "
      "checkpoint counts for nothing any more when it is decided which ones to keep, and is "
      "restored only when there is no other. A damaged file that checkpoints share is brought anew "
      "by the next checkpoint of a job that needs it. The controller does the same on its own, "
      "slowly; `baton checkpoints` says when each was verified last.");
  command->add_option("JOB", options->job, "Name or id.");
  command
      ->add_option("NUMBER", options->number,
                   "Of the checkpoint, see `baton checkpoints`. Default: all of the job.")
      ->check(whole_number(1));
  command->add_flag("--all", options->all, "Those of all jobs.");
  command->add_flag("--json", options->json, "One JSON object per checkpoint.");
  command->callback([&program, options] {
    if (options->all == !options->job.empty())
      throw CLI::ValidationError("verify: name a job, or say --all", kExitUsage);
    run_command(program, [&](Session& session) { return verify(session, *options); });
  });
}

}  // namespace baton::cli
