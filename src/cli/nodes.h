// Finding a node in the controller's list.
#pragma once

#include <string>

#include "base/result.h"
#include "cli/session.h"

namespace baton::cli {

// NotFound names the node. Waits for a controller that is restarting.
Result<v1::Node> find_node(Session& session, const std::string& name);

}  // namespace baton::cli
