// Joining, staying in and being shut out of the cluster. Who may call what: access.h.
#pragma once

#include "control/service_context.h"
#include "wire/identity.grpc.pb.h"

namespace baton::control {

class MembershipService final : public v1::Membership::Service {
 public:
  explicit MembershipService(ServiceContext& context) : context_(context) {}

  grpc::Status CreateToken(grpc::ServerContext* call, const v1::CreateTokenRequest* request,
                           v1::Token* reply) override;
  grpc::Status Enroll(grpc::ServerContext* call, const v1::EnrollRequest* request,
                      v1::Certificate* reply) override;
  grpc::Status Renew(grpc::ServerContext* call, const v1::RenewRequest* request,
                     v1::Certificate* reply) override;
  grpc::Status List(grpc::ServerContext* call, const v1::ListIdentitiesRequest* request,
                    v1::ListIdentitiesReply* reply) override;
  grpc::Status Revoke(grpc::ServerContext* call, const v1::RevokeRequest* request,
                      v1::Identity* reply) override;

 private:
  ServiceContext& context_;
};

}  // namespace baton::control
