#include "control/membership_service.h"

#include "base/clock.h"
#include "base/log.h"
#include "wire/status.h"

namespace baton::control {

grpc::Status MembershipService::CreateToken(grpc::ServerContext*,
                                            const v1::CreateTokenRequest* request,
                                            v1::Token* reply) {
  auto token = context_.members.create_token(*request, wall_time_ms());
  if (!token) return wire::to_grpc(token.error());
  *reply = std::move(*token);
  return grpc::Status::OK;
}

grpc::Status MembershipService::Enroll(grpc::ServerContext* call, const v1::EnrollRequest* request,
                                       v1::Certificate* reply) {
  auto pem = context_.members.enroll(*request, wall_time_ms());
  if (!pem) {
    spdlog::warn("{} did not get in: {}", call->peer(), pem.error().message());
    return wire::to_grpc(pem.error());
  }
  if (auto facts = wire::read_certificate(*pem); facts && facts->name)
    spdlog::info("{} joined from {}", facts->name->name, call->peer());
  reply->set_pem(std::move(*pem));
  return grpc::Status::OK;
}

grpc::Status MembershipService::Renew(grpc::ServerContext* call, const v1::RenewRequest* request,
                                      v1::Certificate* reply) {
  auto pem = [&]() -> Result<std::string> {
    BATON_TRY(const Caller caller, context_.access.caller(*call));
    if (!caller.member())
      return fail(ErrorCode::FailedPrecondition, "this connection has no certificate to renew");
    return context_.members.renew(*caller.member(), request->request(), wall_time_ms());
  }();
  if (!pem) return wire::to_grpc(pem.error());
  reply->set_pem(std::move(*pem));
  return grpc::Status::OK;
}

grpc::Status MembershipService::List(grpc::ServerContext*, const v1::ListIdentitiesRequest*,
                                     v1::ListIdentitiesReply* reply) {
  for (auto& identity : context_.members.list()) *reply->add_identities() = std::move(identity);
  return grpc::Status::OK;
}

grpc::Status MembershipService::Revoke(grpc::ServerContext*, const v1::RevokeRequest* request,
                                       v1::Identity* reply) {
  auto identity = context_.members.revoke(from_wire(request->kind()), request->name());
  if (!identity) return wire::to_grpc(identity.error());
  *reply = std::move(*identity);
  spdlog::warn("{} is shut out", request->name());
  if (request->kind() != v1::IDENTITY_NODE) return grpc::Status::OK;
  // Its heartbeats are refused from now on, so its lease runs out and its jobs go on elsewhere.
  context_.loop.with_lock([&](Loop::Locked& l) { l.state.links.cut(NodeId(request->name())); });
  return grpc::Status::OK;
}

}  // namespace baton::control
