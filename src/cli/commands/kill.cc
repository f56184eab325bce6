// baton kill: send a signal to jobs.
#include <memory>

#include "cli/commands/commands.h"
#include "cli/session.h"
#include "cli/units.h"

namespace baton::cli {
namespace {

struct Options {
  std::vector<std::string> jobs;
  std::string signal = "KILL";
};

Result<int> kill(Session& session, const Options& options, int signal) {
  for (const std::string& name : options.jobs) {
    v1::KillRequest request;
    request.mutable_job()->set_name_or_id(name);
    request.set_signal(signal);
    BATON_CHECK(session.call_long(&v1::Api::Stub::Kill, request));
  }
  return 0;
}

}  // namespace

void add_kill(Program& program) {
  auto options = std::make_shared<Options>();
  auto* command = add_command(
      program, "kill",
      "End jobs at once (KILL, the default), with everything they started; or send their "
      "command another signal, which is the program's own affair.");
  command->add_option("JOB", options->jobs, "Names or ids.")->required();
  command->add_option("-s,--signal", options->signal, "Name or number.")->capture_default_str();
  command->callback([&program, options] {
    auto signal = parse_signal(options->signal);
    if (!signal) throw CLI::ValidationError("--signal: " + signal.error().message());
    run_command(program, [&](Session& session) { return kill(session, *options, *signal); });
  });
}

}  // namespace baton::cli
