// The cluster's own network: a bridge in a namespace of its own, one veth pair per node. Needs no
// free subnet on the machine, for nothing of the machine's network is reachable from it.
#pragma once

#include <sys/types.h>

#include <string>

#include "base/result.h"

namespace baton::up {

inline constexpr const char* kControllerAddress = "10.77.0.1";
inline constexpr int kControllerPort = 7077;

// "10.77.0.11" for the first node.
std::string node_address(int index);

// Moves the calling thread into a new network namespace with the bridge in it.
Status enter_cluster_network();
// Gives the network namespace of process `pid` an interface eth0 on the bridge. It goes with that
// namespace.
Status plug_in(int index, pid_t pid);
// Takes away what is left of it, if the kernel has not yet.
void unplug(int index);
// Run inside the node: names its address and brings it up.
Status configure_node_network(const std::string& address);

}  // namespace baton::up
