// baton cordon, baton uncordon: whether a node takes new jobs.
#include <memory>

#include "cli/commands/commands.h"
#include "cli/describe.h"
#include "cli/session.h"

namespace baton::cli {
namespace {

using Method = grpc::Status (v1::Api::Stub::*)(grpc::ClientContext*, const v1::NodeRef&, v1::Node*);

void add(Program& program, const char* name, const char* help, Method method) {
  auto node = std::make_shared<std::string>();
  auto* command = add_command(program, name, help);
  command->add_option("NODE", *node, "Name of the node.")->required();
  on(program, command, [node, method](Session& session) -> Result<int> {
    v1::NodeRef ref;
    ref.set_name(*node);
    BATON_TRY(const v1::Node reply, session.call(method, ref));
    fmt::print("{}: {}\n", reply.facts().name(), describe_node_state(reply));
    return 0;
  });
}

}  // namespace

void add_cordon(Program& program) {
  add(program, "cordon",
      "Keep new jobs off a node; those that run there stay (`baton drain` moves them).",
      &v1::Api::Stub::Cordon);
}

void add_uncordon(Program& program) {
  add(program, "uncordon", "Let a cordoned or drained node take jobs again.",
      &v1::Api::Stub::Uncordon);
}

}  // namespace baton::cli
