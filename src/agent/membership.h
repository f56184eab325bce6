// The node's place in its cluster: joins when the agent starts for the first time, and renews its
// certificate while it runs.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>

#include "agent/options.h"
#include "base/result.h"
#include "wire/channel.h"

namespace baton::agent {

// How to reach the controller. Joins with the token of `options.join` if this node is in no cluster
// yet, or its certificate is too old to be renewed; a token that is not needed is left alone.
// FailedPrecondition: neither an identity nor a token, or an identity under another name.
Result<wire::Dialer> enter_cluster(const AgentOptions& options);

// Renews in time, on a thread of its own; tries again every minute when it fails. Does nothing
// without an identity.
class Renewal {
 public:
  Renewal(wire::Dialer dialer, wire::Identity identity);
  ~Renewal();
  Renewal(const Renewal&) = delete;
  Renewal& operator=(const Renewal&) = delete;

 private:
  void loop();

  const wire::Dialer dialer_;
  const wire::Identity identity_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool stopping_ = false;
  std::thread thread_;
};

// DATA/identity.
wire::Identity node_identity(const AgentOptions& options);

}  // namespace baton::agent
