// baton nodes: list nodes.
#include <memory>

#include "cli/commands/commands.h"
#include "cli/describe.h"
#include "cli/session.h"
#include "cli/terminal.h"
#include "cli/units.h"

namespace baton::cli {
namespace {

Result<int> nodes(Session& session, bool json) {
  v1::ListNodesRequest request;
  request.set_cpu_features(json);
  BATON_TRY(const v1::ListNodesReply reply, session.call(&v1::Api::Stub::ListNodes, request));
  if (json) {
    print_json(to_json_list(reply.nodes()));
    return 0;
  }
  Table table({"NAME", "STATE", "ADDRESS", "JOBS", "CPU", "MEMORY", "LOAD", "DISK FREE", "CPUS",
               "CRIU", "REMARK"});
  for (const v1::Node& node : reply.nodes()) {
    const bool up = node.state() != v1::NODE_LOST;
    const auto& sample = node.sample();
    table.add(
        {node.facts().name(), describe_node_state(node), node.facts().address(),
         std::to_string(node.job_count()), up ? format_percent(sample.cpu_utilization()) : "-",
         up ? format_percent(sample.memory_utilization()) : "-",
         up ? fmt::format("{:.2f}", sample.load1()) : "-",
         up ? format_size(sample.disk_free_bytes()) : "-", fmt::format("{}", node.facts().cpus()),
         node.facts().criu_version().empty() ? "none" : node.facts().criu_version(),
         node.remark().empty() ? node.facts().criu_problem() : node.remark()});
  }
  table.print();
  return 0;
}

}  // namespace

void add_nodes(Program& program) {
  auto json = std::make_shared<bool>(false);
  auto* command = add_command(
      program, "nodes",
      "List the nodes with their state and load. CPU is a node's use of its own quota, or "
      "of the machine where it has none.");
  command->add_flag("--json", *json, "As JSON.");
  on(program, command, [json](Session& session) { return nodes(session, *json); });
}

}  // namespace baton::cli
