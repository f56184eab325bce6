#include "up/network.h"

#include <sched.h>

#include "up/tool.h"

namespace baton::up {
namespace {

constexpr const char* kBridge = "baton0";
constexpr int kPrefixBits = 24;
constexpr int kFirstNode = 11;

}  // namespace

std::string node_address(int index) { return fmt::format("10.77.0.{}", kFirstNode + index); }

Status enter_cluster_network() {
  if (::unshare(CLONE_NEWNET) != 0) return fail_errno("make a network namespace");
  BATON_CHECK(run_tool({"ip", "link", "set", "lo", "up"}));
  BATON_CHECK(run_tool({"ip", "link", "add", kBridge, "type", "bridge"}));
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
  BATON_CHECK(run_tool({"ip", "link", "add", end, "type", "veth", "peer", "name", "eth0", "netns",
                        std::to_string(pid)}));
  return run_tool({"ip", "link", "set", end, "master", kBridge, "up"});
}

Status configure_node_network(const std::string& address) {
  BATON_CHECK(run_tool({"ip", "link", "set", "lo", "up"}));
  BATON_CHECK(run_tool(
      {"ip", "address", "add", fmt::format("{}/{}", address, kPrefixBits), "dev", "eth0"}));
  return run_tool({"ip", "link", "set", "eth0", "up"});
}

}  // namespace baton::up
