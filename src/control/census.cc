#include "control/census.h"

#include <grpcpp/impl/codegen/proto_utils.h>
#include <grpcpp/support/byte_buffer.h>

#include <algorithm>

#include "control/validate.h"
#include "wire/status.h"

namespace baton::control {
namespace {

constexpr std::uint32_t kHeartbeatsPerLease = 5;

}  // namespace

// Owns itself until the call is done.
class CensusService::Call final : public grpc::ServerGenericBidiReactor {
 public:
  Call(Census& census, grpc::GenericCallbackServerContext& context)
      : census_(census), context_(context) {
    const std::string& method = context_.method();
    is_register_ = method == "/baton.v1.Cluster/Register";
    if (is_register_ || method == "/baton.v1.Cluster/Heartbeat") {
      StartRead(&message_);
    } else {
      Finish(wire::to_grpc(Error(ErrorCode::Unavailable,
                                 "the controller has lost its records and is asking the nodes what "
                                 "runs; come back in a few seconds")));
    }
  }

  void OnReadDone(bool ok) override {
    if (!ok) return Finish(grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "no request"));
    const grpc::Status status = is_register_ ? serve<v1::RegisterRequest, v1::RegisterReply>()
                                             : serve<v1::HeartbeatRequest, v1::HeartbeatReply>();
    if (!status.ok()) return Finish(status);
    StartWriteAndFinish(&message_, grpc::WriteOptions(), grpc::Status::OK);
  }

  void OnDone() override { delete this; }

 private:
  template <typename Request, typename Reply>
  grpc::Status serve() {
    Request request;
    Reply reply;
    const auto parsed = grpc::SerializationTraits<Request>::Deserialize(&message_, &request);
    if (!parsed.ok()) return parsed;
    if (auto answered = census_.answer(context_, request, reply); !answered)
      return wire::to_grpc(answered);
    bool own_buffer = false;
    return grpc::SerializationTraits<Reply>::Serialize(reply, &message_, &own_buffer);
  }

  Census& census_;
  grpc::GenericCallbackServerContext& context_;
  bool is_register_ = false;
  grpc::ByteBuffer message_;
};

grpc::ServerGenericBidiReactor* CensusService::CreateReactor(
    grpc::GenericCallbackServerContext* call) {
  return new Call(census_, *call);
}

Status Census::answer(const grpc::ServerContextBase& call, const v1::RegisterRequest& request,
                      v1::RegisterReply& reply) {
  const std::string& name = request.facts().name();
  BATON_CHECK(check_node_name(name));
  BATON_CHECK(access_.check_node(call, NodeId(name)));
  std::lock_guard lock(mutex_);
  epochs_[name] = request.agent_epoch();
  reports_[name] = {request.facts(),
                    request.boot_id(),
                    {request.incarnations().begin(), request.incarnations().end()}};
  reply.set_lease_ms(lease_ms_);
  reply.set_heartbeat_ms(std::max(lease_ms_ / kHeartbeatsPerLease, 1u));
  *reply.mutable_policy() = policy_;
  return {};
}

Status Census::answer(const grpc::ServerContextBase& call, const v1::HeartbeatRequest& request,
                      v1::HeartbeatReply& reply) {
  BATON_CHECK(access_.check_node(call, NodeId(request.node())));
  std::lock_guard lock(mutex_);
  const auto epoch = epochs_.find(request.node());
  if (epoch == epochs_.end() || epoch->second != request.agent_epoch())
    return {};  // register first
  auto& known = reports_[request.node()].incarnations;
  std::vector<v1::Incarnation> now(request.incarnations().begin(), request.incarnations().end());
  for (auto& incarnation : now)  // only a registration has the description
    for (auto& before : known)
      if (before.job_id() == incarnation.job_id() &&
          before.generation() == incarnation.generation())
        incarnation.mutable_spec()->Swap(before.mutable_spec());
  known = std::move(now);
  reply.set_renewed(true);
  reply.set_lease_ms(lease_ms_);
  *reply.mutable_policy() = policy_;
  return {};
}

}  // namespace baton::control
