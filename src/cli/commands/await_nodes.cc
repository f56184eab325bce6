// baton await-nodes: wait until nodes have registered. For `baton up` and scripts.
#include <chrono>
#include <memory>
#include <set>

#include "cli/commands/commands.h"
#include "cli/session.h"
#include "cli/units.h"

namespace baton::cli {
namespace {

struct Options {
  std::vector<std::string> nodes;
  std::string timeout = "30s";
};

using Deadline = std::chrono::system_clock::time_point;

// The wanted nodes that are not up yet.
Result<std::set<std::string>> missing(Session& session, const Options& options, Deadline deadline) {
  grpc::ClientContext context;
  context.set_deadline(deadline);
  context.set_wait_for_ready(true);  // the controller may be starting
  v1::ListNodesReply reply;
  BATON_CHECK(wire::check(session.api().ListNodes(&context, v1::ListNodesRequest(), &reply)));
  std::set<std::string> wanted(options.nodes.begin(), options.nodes.end());
  for (const v1::Node& node : reply.nodes())
    if (node.state() == v1::NODE_UP) wanted.erase(node.facts().name());
  return wanted;
}

Result<int> await_nodes(Session& session, const Options& options, Deadline deadline) {
  auto left = missing(session, options, deadline);
  if (!left) return fail(std::move(left).error().context("wait for the controller"));
  grpc::ClientContext context;
  context.set_deadline(deadline);
  v1::EventsRequest request;
  request.set_follow(true);
  auto stream = session.api().Events(&context, request);
  v1::Event event;
  while (left && !left->empty() && stream->Read(&event)) left = missing(session, options, deadline);
  context.TryCancel();
  stream->Finish();
  if (!left) return fail(std::move(left).error());
  if (left->empty()) return 0;
  return fail(ErrorCode::TimedOut, fmt::format("these nodes did not register in {}: {}",
                                               options.timeout, fmt::join(*left, ", ")));
}

}  // namespace

void add_await_nodes(Program& program) {
  auto options = std::make_shared<Options>();
  auto* command = add_command(program, "await-nodes", "Wait until nodes are up.");
  command->group("");  // hidden
  command->add_option("NODE", options->nodes, "Names of nodes.")->required();
  command->add_option("--timeout", options->timeout, "Give up after so long.");
  command->callback([&program, options] {
    auto timeout = parse_duration_ms(options->timeout);
    if (!timeout) throw CLI::ValidationError("--timeout: " + timeout.error().message());
    const Deadline deadline =
        std::chrono::system_clock::now() + std::chrono::milliseconds(*timeout);
    run_command(program,
                [&](Session& session) { return await_nodes(session, *options, deadline); });
  });
}

}  // namespace baton::cli
