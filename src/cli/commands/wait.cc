// baton wait: block until a job has ended.
#include <memory>

#include "cli/commands/commands.h"
#include "cli/follow.h"
#include "cli/session.h"
#include "cli/units.h"

namespace baton::cli {
namespace {

struct Options {
  std::string job;
  std::string timeout;
};

Result<int> wait(Session& session, const Options& options, std::int64_t timeout_ms) {
  v1::JobRef ref;
  ref.set_name_or_id(options.job);
  BATON_CHECK(session.call(&v1::Api::Stub::GetJob, ref));
  BATON_TRY(const v1::Job job, await_end(session, options.job, timeout_ms));
  return exit_code_of(job);
}

}  // namespace

void add_wait(Program& program) {
  auto options = std::make_shared<Options>();
  auto* command = add_command(
      program, "wait",
      "Wait until a job has ended and exit with its code (125: it could not be run). It "
      "may move meanwhile, and the controller may restart.");
  command->add_option("JOB", options->job, "Name or id.")->required();
  command->add_option("--timeout", options->timeout,
                      "Give up after so long, such as 10s. Default: never.");
  command->callback([&program, options] {
    std::int64_t timeout_ms = 0;
    if (!options->timeout.empty()) {
      auto parsed = parse_duration_ms(options->timeout);
      if (!parsed || *parsed == 0)
        throw CLI::ValidationError("--timeout: " +
                                   (parsed ? "it must be more than 0" : parsed.error().message()));
      timeout_ms = *parsed;
    }
    run_command(program, [&](Session& session) { return wait(session, *options, timeout_ms); });
  });
}

}  // namespace baton::cli
