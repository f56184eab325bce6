// baton stop: end jobs politely.
#include <limits>
#include <memory>

#include "cli/commands/commands.h"
#include "cli/describe.h"
#include "cli/session.h"
#include "cli/units.h"

namespace baton::cli {
namespace {

struct Options {
  std::vector<std::string> jobs;
  std::string grace = "10s";
};

Result<int> stop(Session& session, const Options& options, std::uint32_t grace_ms) {
  for (const std::string& name : options.jobs) {
    v1::StopRequest request;
    request.mutable_job()->set_name_or_id(name);
    request.set_grace_ms(grace_ms);
    BATON_TRY(const v1::Job job, session.call_long(&v1::Api::Stub::Stop, request));
    fmt::print("{}: {}\n", job.spec().name(), describe_state(job));
  }
  return 0;
}

}  // namespace

void add_stop(Program& program) {
  auto options = std::make_shared<Options>();
  auto* command =
      add_command(program, "stop",
                  "Ask jobs to end (SIGTERM), and end them by force after the grace period. Their "
                  "output and newest checkpoint stay until `baton rm`.");
  command->add_option("JOB", options->jobs, "Names or ids.")->required();
  command->add_option("--grace", options->grace, "Grace period.")->capture_default_str();
  command->callback([&program, options] {
    auto grace = parse_duration_ms(options->grace);
    if (!grace) throw CLI::ValidationError("--grace: " + grace.error().message());
    if (*grace > std::numeric_limits<std::uint32_t>::max())
      throw CLI::ValidationError(fmt::format("--grace {}: 49d are the most", options->grace));
    run_command(program, [&](Session& session) {
      return stop(session, *options, static_cast<std::uint32_t>(*grace));
    });
  });
}

}  // namespace baton::cli
