#include "up/network.h"

#include <sched.h>

#include "up/tool.h"

namespace baton::up {
namespace {

constexpr const char* kBridge = "baton0";
constexpr int kPrefixBits = 24;
constexpr int kFirstNode = 11;
constexpr int kControllerHost = 1;

// Locally administered; the rest is as in the network's addresses.
std::string hardware_address(int host) { return fmt::format("02:00:0a:4d:00:{:02x}", host); }

}  // namespace

std::string node_address(int index) { return fmt::format("10.77.0.{}", kFirstNode + index); }

Status enter_cluster_network() {
  if (::unshare(CLONE_NEWNET) != 0) return fail_errno("make a network namespace");
  BATON_CHECK(run_tool({"ip", "link", "set", "lo", "up"}));
  // A bridge without an address of its own takes the lowest of its ports': with a node that is cut
  // off the controller's would change, and the others would not find it for seconds.
  BATON_CHECK(run_tool({"ip", "link", "add", kBridge, "address", hardware_address(kControllerHost),
                        "type", "bridge"}));
  BATON_CHECK(run_tool({"ip", "address", "add",
                        fmt::format("{}/{}", kControllerAddress, kPrefixBits), "dev", kBridge}));
  return run_tool({"ip", "link", "set", kBridge, "up"});
}

namespace {
std::string bridge_end(int index) { return fmt::format("node{}", index + 1); }
}  // namespace

void unplug(int index) {
  // Gone already is as good.
  (void)run_tool({"ip", "link", "delete", bridge_end(index)});
}

Status plug_in(int index, pid_t pid) {
  const std::string end = bridge_end(index);
  // A machine that comes back has the address that it had.
  BATON_CHECK(run_tool({"ip", "link", "add", end, "type", "veth", "peer", "name", "eth0", "address",
                        hardware_address(kFirstNode + index), "netns", std::to_string(pid)}));
  return run_tool({"ip", "link", "set", end, "master", kBridge, "up"});
}

Status configure_node_network(const std::string& address) {
  BATON_CHECK(run_tool({"ip", "link", "set", "lo", "up"}));
  BATON_CHECK(run_tool(
      {"ip", "address", "add", fmt::format("{}/{}", address, kPrefixBits), "dev", "eth0"}));
  return run_tool({"ip", "link", "set", "eth0", "up"});
}

}  // namespace baton::up
