// baton events: what happened and why.
#include <memory>

#include "cli/commands/commands.h"
#include "cli/follow.h"
#include "cli/session.h"
#include "cli/terminal.h"
#include "cli/units.h"

namespace baton::cli {
namespace {

struct Options {
  std::string job;
  bool follow = false;
  bool json = false;
  std::uint64_t after = 0;
};

void print_event(const v1::Event& event) {
  fmt::print("{}  {:<8}  {:<12}  {:<20}  {}\n", format_clock(event.at_wall_ms()),
             event.node().empty() ? "-" : event.node(),
             event.job_name().empty() ? "-" : event.job_name(), event.kind(), event.text());
  std::fflush(stdout);
}

Result<int> events(Session& session, const Options& options) {
  v1::EventsRequest request;
  request.set_after(options.after);
  request.set_follow(options.follow);
  if (options.job.empty()) {
    BATON_CHECK(session.call(&v1::Api::Stub::Version, v1::Empty()));
  } else {
    request.mutable_job()->set_name_or_id(options.job);
    BATON_CHECK(session.call(&v1::Api::Stub::GetJob, request.job()));
  }
  BATON_CHECK(follow_events(session, request, [&](const v1::Event& event) {
    if (options.json)
      print_json(to_json(event), false);
    else
      print_event(event);
    return true;
  }));
  return 0;
}

}  // namespace

void add_events(Program& program) {
  auto options = std::make_shared<Options>();
  auto* command =
      add_command(program, "events", "Tell what happened to jobs and nodes, when and why.");
  command->add_option("--job", options->job, "Only this job's.");
  command->add_option("--after", options->after, "Only those after this sequence number.")
      ->check(whole_number());
  command->add_flag("-f,--follow", options->follow, "Go on with new ones until Ctrl-C.");
  command->add_flag("--json", options->json, "One JSON object per line.");
  on(program, command, [options](Session& session) { return events(session, *options); });
}

}  // namespace baton::cli
