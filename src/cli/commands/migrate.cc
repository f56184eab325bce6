// baton migrate: move a running job.
#include <memory>

#include "cli/commands/commands.h"
#include "cli/moved.h"
#include "cli/session.h"

namespace baton::cli {
namespace {

struct Options {
  std::string job;
  std::string to;
  bool json = false;
};

Result<int> migrate(Session& session, const Options& options) {
  v1::MigrateRequest request;
  request.mutable_job()->set_name_or_id(options.job);
  request.set_to(options.to);
  BATON_TRY(const v1::MoveReply reply, session.call_long(&v1::Api::Stub::Migrate, request));
  return report_move(reply, options.json);
}

}  // namespace

void add_migrate(Program& program) {
  auto options = std::make_shared<Options>();
  auto* command = add_command(
      program, "migrate",
      "Move a running job to another node and wait until it runs there. It is frozen meanwhile. "
      "When anything fails it goes on where it was.");
  command->add_option("JOB", options->job, "Name or id.")->required();
  command->add_option("--to", options->to, "Target node. Default: the controller chooses.");
  command->add_flag("--json", options->json, "As JSON.");
  on(program, command, [options](Session& session) { return migrate(session, *options); });
}

}  // namespace baton::cli
