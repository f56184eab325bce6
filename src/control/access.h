// Who may do what: one rule for every call that a controller answers, and the check itself.
//
// Somebody is known by the certificate of the connection (wire/certificate.h). Connections without
// TLS are a unix socket that root alone can open, and loopback where the administrator said
// --insecure: whoever calls there may do everything.
#pragma once

#include <grpc/grpc_security_constants.h>
#include <grpcpp/security/auth_metadata_processor.h>
#include <grpcpp/server_context.h>

#include <optional>
#include <string_view>

#include "control/loop.h"
#include "control/members.h"
#include "core/cluster.h"

namespace baton::control {

struct Rule {
  enum class For { Everybody, Members, Nodes, Users };
  For whom = For::Users;
  v1::Role least = v1::ROLE_ADMIN;  // of users
  // Below an operator, about jobs of one's own alone: the call itself looks, see Access::own_job.
  bool own_jobs = false;
};

// Of "/baton.v1.Api/Run". Nothing: there is no such call, or nobody has decided; it is refused.
std::optional<Rule> find_rule(std::string_view method);

class Caller {
 public:
  // Without a member: whoever may do everything.
  explicit Caller(std::optional<Member> member) : member_(std::move(member)) {}

  bool is_node(std::string_view name) const;
  // And see its secrets.
  bool may_change(const v1::JobSpec& job) const;
  // The owner that a new job gets; empty: nobody but operators.
  std::string user() const;
  const std::optional<Member>& member() const { return member_; }

 private:
  std::optional<Member> member_;
};

// Asked by gRPC before any call of a TLS port is handed on, and by calls that have to know who
// asks. Thread-safe.
class Access final : public grpc::AuthMetadataProcessor {
 public:
  explicit Access(Members& members) : members_(members) {}

  // A lookup in memory: not worth another thread.
  bool IsBlocking() const override { return false; }
  grpc::Status Process(const InputMetadata& metadata, grpc::AuthContext* context,
                       OutputMetadata* consumed, OutputMetadata* response) override;

  // Forbidden: nobody that is in, or not any more.
  Result<Caller> caller(const grpc::ServerContextBase& call) const;
  // Whose share of the controller's threads a call takes, as its certificate says: "user alice".
  // "": who may do everything.
  std::string who(const grpc::ServerContextBase& call) const;
  // Forbidden unless the call comes from that node.
  Status check_node(const grpc::ServerContextBase& call, const NodeId& node) const;
  // Forbidden unless it comes from the node that holds this incarnation or may hold it. A
  // generation that has been superseded is nobody's: what becomes of it is decided where that is
  // known.
  Status check_holder(const grpc::ServerContextBase& call, const State& state, JobId job,
                      Generation generation) const;
  // The job, if the caller may change it.
  Result<JobId> own_job(const grpc::ServerContextBase& call, Loop& loop,
                        const v1::JobRef& ref) const;

 private:
  Members& members_;
};

// Replaces the values of environment variables, for callers who may not see them.
void hide_secrets(const Caller& caller, v1::JobSpec& job);

}  // namespace baton::control
