// All that a controller answers while it has no records: it renews leases, so that what runs goes
// on, writes down what does, and orders nothing. Everybody else is told to come back.
//
//   agent      → census  Register{incarnations}   ── granted; noted, nothing is killed
//   agent      → census  Heartbeat{incarnations}  ── renewed; noted anew
//   whoever    → census  anything else            ── Unavailable
//
// Not more than a lease's term after it began it is complete: a node that has not spoken by then
// holds no lease.
#pragma once

#include <grpcpp/generic/async_generic_service.h>

#include <memory>
#include <mutex>

#include "control/access.h"
#include "control/rebuild.h"

namespace baton::control {

// Thread-safe. Outlives the services that fill it.
class Census {
 public:
  Census(const Access& access, std::uint32_t lease_ms, v1::Policy policy)
      : access_(access), lease_ms_(lease_ms), policy_(std::move(policy)) {}

  // Once no server has it any more.
  CensusResult take() { return std::move(reports_); }

 private:
  friend class CensusService;
  Status answer(const grpc::ServerContextBase& call, const v1::RegisterRequest& request,
                v1::RegisterReply& reply);
  Status answer(const grpc::ServerContextBase& call, const v1::HeartbeatRequest& request,
                v1::HeartbeatReply& reply);

  const Access& access_;
  const std::uint32_t lease_ms_;
  const v1::Policy policy_;
  std::mutex mutex_;
  CensusResult reports_;
  std::map<std::string, std::string> epochs_;  // of agents, by node
};

// Of one server; gRPC does not share it.
class CensusService final : public grpc::CallbackGenericService {
 public:
  explicit CensusService(Census& census) : census_(census) {}
  grpc::ServerGenericBidiReactor* CreateReactor(grpc::GenericCallbackServerContext* call) override;

 private:
  class Call;
  Census& census_;
};

}  // namespace baton::control
