// baton drain: empty a node.
#include <csignal>
#include <memory>

#include "cli/commands/commands.h"
#include "cli/describe.h"
#include "cli/follow.h"
#include "cli/nodes.h"
#include "cli/session.h"
#include "cli/units.h"

namespace baton::cli {
namespace {

struct Options {
  std::string node;
  std::string deadline;
  bool cancel = false;
  bool no_wait = false;
};

// Shows what happens on the node until no job is left there or the drain has ended.
Status watch(Session& session, const std::string& name, std::uint64_t after) {
  Status problem;
  auto over = [&] {
    auto node = find_node(session, name);
    if (!node) {
      problem = fail(std::move(node).error());
    } else if (node->job_count() > 0 && !node->draining()) {
      problem = fail(ErrorCode::TimedOut,
                     fmt::format("{} is no longer drained; jobs left on it: {}; it is {} now "
                                 "(baton drain {} goes on)",
                                 name, node->job_count(), describe_node_state(*node), name));
    }
    return !problem || node->job_count() == 0;
  };
  if (over()) return problem;
  v1::EventsRequest request;
  request.set_after(after);
  request.set_follow(true);
  BATON_CHECK(follow_events(session, request, [&](const v1::Event& event) {
    if (event.node() == name || event.timing().from() == name)
      fmt::print("{}  {}\n", format_clock(event.at_wall_ms()), event.text());
    return !over();
  }));
  return problem;
}

// The number of the newest event so far.
Result<std::uint64_t> newest_event(Session& session) {
  std::uint64_t newest = 0;
  BATON_CHECK(follow_events(session, {}, [&](const v1::Event& event) {
    newest = event.sequence();
    return true;
  }));
  return newest;
}

Result<int> drain(Session& session, const Options& options) {
  v1::DrainRequest request;
  request.set_node(options.node);
  request.set_cancel(options.cancel);
  BATON_TRY(const auto deadline_ms, parse_limit_ms("--deadline", options.deadline));
  if (options.cancel && deadline_ms != 0)
    return fail(ErrorCode::InvalidArgument, "--cancel takes no --deadline");
  request.set_deadline_ms(deadline_ms);
  BATON_CHECK(session.call(&v1::Api::Stub::Version, v1::Empty()));
  BATON_TRY(const std::uint64_t after, newest_event(session));
  BATON_TRY(const v1::Node node, session.call(&v1::Api::Stub::Drain, request));
  if (options.cancel) {
    fmt::print("{}: {}; jobs that were moved stay where they are\n", options.node,
               describe_node_state(node));
    return 0;
  }
  if (options.no_wait) return 0;
  session.catch_interrupts();
  const Status watched = watch(session, options.node, after);
  if (session.interrupted()) {
    fmt::print(stderr,
               "\nbaton: no longer watching; the drain of {} goes on (baton drain {} --cancel "
               "ends it)\n",
               options.node, options.node);
    return 128 + SIGINT;
  }
  BATON_CHECK(watched);
  fmt::print("{} is empty and stays cordoned (baton uncordon {})\n", options.node, options.node);
  return 0;
}

}  // namespace

void add_drain(Program& program) {
  auto options = std::make_shared<Options>();
  auto* command = add_command(
      program, "drain",
      "Move every job off a node and keep new ones away. Watches until the node is empty; Ctrl-C "
      "ends the watching, not the drain. Jobs that can't be moved (unprotected, or no other node "
      "fits) stay, and the drain waits for them.");
  command->add_option("NODE", options->node, "Name of the node.")->required();
  command->add_option("--deadline", options->deadline,
                      "End the drain after so long, such as 120s: what is still there stays, and "
                      "the node takes no new jobs. Default: never.");
  command->add_flag("--cancel", options->cancel, "End a drain; moves under way are finished.");
  command->add_flag("--no-wait", options->no_wait, "Return at once.");
  on(program, command, [options](Session& session) { return drain(session, *options); });
}

}  // namespace baton::cli
