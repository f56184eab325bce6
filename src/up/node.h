// Pid 1 of a node of `baton up`.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"

namespace baton::up {

struct NodeOptions {
  std::string name;
  std::string address;
  int go_fd = -1;
  bool no_restart = false;
  std::vector<std::string> agent;  // arguments of this program that make it the agent
};

// Finishes the node's namespaces, then keeps an agent running and reaps, for ever. Being killed is
// the node's power cut: everything in its pid namespace goes with it. Returns on a failed start.
Status run_node(const NodeOptions& options);

}  // namespace baton::up
