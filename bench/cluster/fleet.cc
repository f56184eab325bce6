#include "cluster/fleet.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "agent/node_facts.h"
#include "wire/identity.grpc.pb.h"
#include "wire/membership.h"
#include "wire/status.h"

namespace baton::bench {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::seconds period{1};
constexpr std::size_t started_per_period = 50;
constexpr std::chrono::milliseconds end_poll{20};

v1::NodeFacts facts(const std::string& name, const std::vector<std::string>& features) {
  v1::NodeFacts facts;
  facts.set_name(name);
  facts.set_address("127.0.0.1");
  facts.set_kernel(agent::kernel_release());
  facts.set_criu_version("4.2.1");
  facts.set_cpus(16);
  facts.set_memory_bytes(std::uint64_t{64} << 30);
  for (const auto& feature : features) facts.add_cpu_features(feature);
  facts.set_cgroup_limits(true);
  facts.set_tier("tracked");
  return facts;
}

}  // namespace

Result<wire::Dialer> join(const ControllerProcess& controller, v1::IdentityKind kind,
                          const std::string& name, const std::string& address,
                          const std::filesystem::path& identity) {
  BATON_TRY(const auto channel, wire::open_channel(controller.socket()));
  v1::CreateTokenRequest request;
  request.set_kind(kind);
  request.set_name(name);
  request.set_role(v1::ROLE_ADMIN);
  grpc::ClientContext context;
  context.set_wait_for_ready(true);
  v1::Token text;
  BATON_CHECK(wire::check(v1::Membership::NewStub(channel)->CreateToken(&context, request, &text)));
  BATON_TRY(const auto token, wire::parse_join_token(text.text()));
  BATON_CHECK(wire::join(address, token, name, wire::Identity(identity)));
  return wire::Dialer::create(address, {.identity = identity});
}

Result<std::unique_ptr<Fleet>> Fleet::join(const ControllerProcess& controller, int agents,
                                           const std::filesystem::path& identities) {
  std::unique_ptr<Fleet> fleet(new Fleet);
  const auto features = agent::cpu_features();
  for (int i = 0; i < agents; ++i) {
    const std::string name = fmt::format("node-{}", i + 1);
    BATON_TRY(const auto dialer, bench::join(controller, v1::IDENTITY_NODE, name,
                                             controller.agents_address(), identities / name));
    fleet->agents_.emplace_back(dialer, facts(name, features), fleet->figures_);
  }
  return fleet;
}

Fleet::~Fleet() {
  pacer_ = {};
  for (auto& agent : agents_) agent.end();
  for (const auto& agent : agents_)
    while (!agent.is_idle()) std::this_thread::sleep_for(end_poll);
}

void Fleet::start() {
  pacer_ = std::jthread([this](std::stop_token stop) { pace(stop); });
}

std::size_t Fleet::renewed_since(std::int64_t ns) const {
  return static_cast<std::size_t>(std::ranges::count_if(
      agents_, [&](const SimAgent& agent) { return agent.renewed_ns() > ns; }));
}

std::vector<double> Fleet::take_late_ms() {
  std::lock_guard lock(late_mutex_);
  return std::exchange(late_ms_, {});
}

void Fleet::pace(std::stop_token stop) {
  const auto slot = Clock::duration(period) / static_cast<int>(agents_.size());
  std::size_t started = 0;
  for (auto round = Clock::now(); !stop.stop_requested(); round += period) {
    started = std::min(started + started_per_period, agents_.size());
    for (std::size_t i = 0; i < started && !stop.stop_requested(); ++i) {
      const auto due = round + slot * static_cast<int>(i);
      std::this_thread::sleep_until(due);
      const std::chrono::duration<double, std::milli> late = Clock::now() - due;
      agents_[i].turn();
      std::lock_guard lock(late_mutex_);
      late_ms_.push_back(late.count());
    }
    std::this_thread::sleep_until(round + period);
  }
}

}  // namespace baton::bench
