// baton migrate: move a running job.
#include <memory>

#include "cli/commands/commands.h"
#include "cli/moved.h"
#include "cli/session.h"
#include "cli/terminal.h"
#include "cli/units.h"

namespace baton::cli {
namespace {

struct Options {
  std::string job;
  std::string to;
  std::string deadline, max_downtime;
  bool dry_run = false;
  bool json = false;
};

Result<int> show_plan(Session& session, const v1::MigrateRequest& request, bool json) {
  BATON_TRY(const v1::MovePlan plan, session.call(&v1::Api::Stub::PlanMove, request));
  if (json) {
    print_json(to_json(plan));
    return plan.to().empty() ? kExitFailure : 0;
  }
  if (plan.to().empty())
    fmt::print("{} would stay on {}\n", plan.job_name(), plan.from());
  else
    fmt::print("{} would move from {} to {} ({})\n", plan.job_name(), plan.from(), plan.to(),
               plan.why());
  for (const std::string& other : plan.others()) fmt::print("  {} would do as well\n", other);
  for (const std::string& rejected : plan.rejected()) fmt::print("  {}\n", rejected);
  return plan.to().empty() ? kExitFailure : 0;
}

Result<int> migrate(Session& session, const Options& options) {
  v1::MigrateRequest request;
  request.mutable_job()->set_name_or_id(options.job);
  request.set_to(options.to);
  BATON_TRY(const auto deadline_ms, parse_limit_ms("--deadline", options.deadline));
  BATON_TRY(const auto max_downtime_ms, parse_limit_ms("--max-downtime", options.max_downtime));
  request.set_deadline_ms(deadline_ms);
  request.set_max_downtime_ms(max_downtime_ms);
  if (options.dry_run) return show_plan(session, request, options.json);
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
  command->add_option("--deadline", options->deadline,
                      "Give up, and go on where it was, when it does not run there in time, such "
                      "as 60s. Default: never.");
  command->add_option("--max-downtime", options->max_downtime,
                      "Do not freeze it before it can be expected to stand still for so long at "
                      "most, such as 300ms, and let it go on where it was if shipping takes "
                      "longer. Default: any.");
  command->add_flag("--dry-run", options->dry_run,
                    "Say where it would go, and why not elsewhere; move nothing.");
  command->add_flag("--json", options->json, "As JSON.");
  on(program, command, [options](Session& session) { return migrate(session, *options); });
}

}  // namespace baton::cli
