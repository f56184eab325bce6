#include "agent/membership.h"

#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "sys/file.h"
#include "wire/membership.h"

namespace baton::agent {
namespace {

constexpr std::chrono::hours kLookEvery{1};
constexpr std::chrono::minutes kTryAgainAfter{1};
constexpr std::uint64_t kMaxTokenBytes = 64 << 10;

std::int64_t now_s() { return wall_time_ms() / 1000; }

bool is_socket(const std::string& address) {
  const auto parsed = wire::parse_address(address);
  return parsed && parsed->starts_with("unix:");
}

Result<wire::JoinToken> read_token(const std::filesystem::path& path) {
  BATON_TRY(const std::string text,
            sys::read_file(path == "-" ? "/dev/stdin" : path, kMaxTokenBytes));
  return wire::parse_join_token(text);
}

Status join(const AgentOptions& options, const wire::Identity& identity) {
  if (options.join.empty())
    return fail(ErrorCode::FailedPrecondition,
                fmt::format("this node is in no cluster; `baton token create --node {}` on the "
                            "controller makes a token, and --join FILE takes it",
                            options.name));
  auto token = read_token(options.join);
  if (!token) return fail(std::move(token).error().context("--join"));
  BATON_CHECK(wire::join(options.controller, *token, options.name, identity));
  spdlog::info("joined the cluster of {}", options.controller);
  return {};
}

}  // namespace

wire::Identity node_identity(const AgentOptions& options) {
  return wire::Identity(options.data / "identity");
}

Result<wire::Dialer> enter_cluster(const AgentOptions& options) {
  const wire::Identity identity = node_identity(options);
  const wire::Security security{identity.directory(), options.insecure};
  if (options.insecure || is_socket(options.controller))
    return wire::Dialer::create(options.controller, security);
  auto facts = identity.facts();
  if (!facts && facts.error().code() != ErrorCode::NotFound) return fail(std::move(facts).error());
  if (facts && facts->name->name != options.name)
    return fail(ErrorCode::FailedPrecondition,
                fmt::format("{} is the identity of {}, not of {}; --name is how a node is called",
                            identity.directory().string(), facts->name->name, options.name));
  if (!facts || facts->not_after_s <= now_s()) BATON_CHECK(join(options, identity));
  return wire::Dialer::create(options.controller, security);
}

Renewal::Renewal(wire::Dialer dialer, wire::Identity identity)
    : dialer_(std::move(dialer)), identity_(std::move(identity)) {
  if (identity_.exists()) thread_ = std::thread([this] { loop(); });
}

Renewal::~Renewal() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void Renewal::loop() {
  std::unique_lock lock(mutex_);
  std::chrono::seconds wait{0};
  while (!changed_.wait_for(lock, wait, [&] { return stopping_; })) {
    lock.unlock();
    const auto facts = identity_.facts();
    wait = kLookEvery;
    if (!facts || wire::is_due(*facts, now_s())) {
      Status renewed = wire::renew(dialer_.open(), identity_);
      if (renewed) {
        spdlog::info("this node's certificate was renewed");
      } else {
        spdlog::warn("{}", renewed.error().message());
        wait = kTryAgainAfter;
      }
    }
    lock.lock();
  }
}

}  // namespace baton::agent
