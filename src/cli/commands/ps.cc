// baton ps: list jobs.
#include <memory>

#include "base/clock.h"
#include "cli/commands/commands.h"
#include "cli/describe.h"
#include "cli/session.h"
#include "cli/terminal.h"
#include "cli/units.h"

namespace baton::cli {
namespace {

constexpr std::uint32_t kPageJobs = 500;

struct Options {
  bool all = false;
  bool json = false;
};

Result<int> ps(Session& session, const Options& options) {
  v1::ListJobsRequest request;
  request.set_all(options.all);
  request.set_limit(kPageJobs);
  v1::ListJobsReply reply;
  do {
    if (reply.jobs_size() > 0) request.set_after(reply.jobs().rbegin()->id());
    BATON_TRY(const v1::ListJobsReply page, session.call(&v1::Api::Stub::ListJobs, request));
    reply.MergeFrom(page);
    reply.set_more(page.more());
  } while (reply.more());
  if (options.json) {
    print_json(to_json_list(reply.jobs()));
    return 0;
  }
  const std::int64_t now = wall_time_ms();
  Table table(
      {"ID", "NAME", "STATE", "NODE", "PROTECTED", "CHECKPOINTS", "MOVES", "SUBMITTED", "COMMAND"});
  for (const v1::Job& job : reply.jobs())
    table.add({std::to_string(job.id()), job.spec().name(), describe_state(job), job.node(),
               describe_protection(job), std::to_string(job.checkpoint_count()),
               std::to_string(job.moves_size()), format_ago(job.submitted_wall_ms(), now),
               shorten(describe_command(job.spec()), 40)});
  table.print();
  return 0;
}

}  // namespace

void add_ps(Program& program) {
  auto options = std::make_shared<Options>();
  auto* command = add_command(program, "ps", "List the jobs that have not ended.");
  command->add_flag("-a,--all", options->all, "Those that have ended, too.");
  command->add_flag("--json", options->json, "As JSON.");
  on(program, command, [options](Session& session) { return ps(session, *options); });
}

}  // namespace baton::cli
