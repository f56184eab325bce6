#include "wire/membership.h"

#include <grpcpp/client_context.h>

#include <chrono>

#include "wire/identity.grpc.pb.h"
#include "wire/status.h"

namespace baton::wire {
namespace {

// To reach a controller that may be starting.
constexpr std::chrono::seconds kJoinTimeout{30};
constexpr std::chrono::seconds kRenewTimeout{10};

}  // namespace

Status join(const std::string& address, const JoinToken& token, const std::string& name,
            const Identity& identity) {
  v1::EnrollRequest request;
  request.set_secret(token.secret);
  request.set_name(name);
  BATON_TRY(*request.mutable_request(), identity.request());
  BATON_TRY(const auto channel, open_joining_channel(address, token.authority));
  grpc::ClientContext context;
  context.set_wait_for_ready(true);
  context.set_deadline(std::chrono::system_clock::now() + kJoinTimeout);
  v1::Certificate certificate;
  const grpc::Status status =
      v1::Membership::NewStub(channel)->Enroll(&context, request, &certificate);
  if (status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED)
    return fail(ErrorCode::Unavailable,
                fmt::format("join the cluster: within {} s no controller of the token's cluster "
                            "answered at {}",
                            kJoinTimeout.count(), address));
  BATON_CHECK_CTX(check(status), "join the cluster");
  return identity.save(token.authority, certificate.pem());
}

bool is_due(const CertificateFacts& facts, std::int64_t now_s) {
  return now_s >= facts.made_s + (facts.not_after_s - facts.made_s) / 3 * 2;
}

Status renew(const std::shared_ptr<grpc::Channel>& channel, const Identity& identity) {
  v1::RenewRequest request;
  BATON_TRY(*request.mutable_request(), identity.request());
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kRenewTimeout);
  v1::Certificate certificate;
  BATON_CHECK_CTX(check(v1::Membership::NewStub(channel)->Renew(&context, request, &certificate)),
                  "renew the certificate");
  return identity.renew(certificate.pem());
}

}  // namespace baton::wire
