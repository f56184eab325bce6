// baton checkpoints: list those of a job.
#include <memory>

#include "cli/commands/commands.h"
#include "cli/describe.h"
#include "cli/session.h"
#include "cli/terminal.h"

namespace baton::cli {
namespace {

struct Options {
  std::string job;
  bool json = false;
};

Result<int> checkpoints(Session& session, const Options& options) {
  v1::JobRef ref;
  ref.set_name_or_id(options.job);
  BATON_TRY(const v1::ListCheckpointsReply list,
            session.call(&v1::Api::Stub::ListCheckpoints, ref));
  if (options.json)
    print_json(to_json_list(list.checkpoints()));
  else
    fmt::print("{}", checkpoints_table(list));
  return 0;
}

}  // namespace

void add_checkpoints(Program& program) {
  auto options = std::make_shared<Options>();
  auto* command = add_command(
      program, "checkpoints",
      "List the checkpoints the controller keeps of a job. SIZE is what it holds, NEW what the "
      "store had not before; WHERE names the node that has a copy, too, if that is known; VERIFIED "
      "is when all its bytes were last compared with their hashes, by `baton verify` or by the "
      "controller on its rounds.\n\nOne that failed to restore is quarantined: kept for a look, "
      "never used again. One that is damaged is tried when there is no other. How many are kept: "
      "`baton run --policy keep_checkpoints=N`, and `baton pin`.");
  command->add_option("JOB", options->job, "Name or id.")->required();
  command->add_flag("--json", options->json, "As JSON.");
  on(program, command, [options](Session& session) { return checkpoints(session, *options); });
}

}  // namespace baton::cli
