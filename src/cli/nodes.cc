#include "cli/nodes.h"

namespace baton::cli {

Result<v1::Node> find_node(Session& session, const std::string& name) {
  v1::ListNodesReply reply;
  BATON_CHECK(session.over_restarts([&](grpc::ClientContext& context) {
    return session.api().ListNodes(&context, v1::ListNodesRequest(), &reply);
  }));
  for (const v1::Node& node : reply.nodes())
    if (node.facts().name() == name) return node;
  return fail(ErrorCode::NotFound, fmt::format("there is no node {}", name));
}

}  // namespace baton::cli
