#include "control/access.h"

#include <unordered_map>

#include "base/clock.h"
#include "wire/status.h"

namespace baton::control {
namespace {

using wire::PeerKind;

constexpr Rule kViewer{Rule::For::Users, v1::ROLE_VIEWER};
constexpr Rule kUser{Rule::For::Users, v1::ROLE_USER};
constexpr Rule kOwner{Rule::For::Users, v1::ROLE_USER, true};
constexpr Rule kOperator{Rule::For::Users, v1::ROLE_OPERATOR};
constexpr Rule kAdmin{Rule::For::Users, v1::ROLE_ADMIN};
constexpr Rule kNode{Rule::For::Nodes};

const std::unordered_map<std::string_view, Rule> kRules = {
    {"/baton.v1.Api/Version", {Rule::For::Members}},
    {"/baton.v1.Api/Run", kUser},
    {"/baton.v1.Api/ListJobs", kViewer},
    {"/baton.v1.Api/GetJob", kViewer},
    {"/baton.v1.Api/Logs", kViewer},
    {"/baton.v1.Api/Wait", kViewer},
    {"/baton.v1.Api/TakeCheckpoint", kOwner},
    {"/baton.v1.Api/ListCheckpoints", kViewer},
    {"/baton.v1.Api/Migrate", kOwner},
    {"/baton.v1.Api/PlanMove", kViewer},
    {"/baton.v1.Api/Restore", kOwner},
    {"/baton.v1.Api/Stop", kOwner},
    {"/baton.v1.Api/Kill", kOwner},
    {"/baton.v1.Api/Remove", kOwner},
    {"/baton.v1.Api/ListNodes", kViewer},
    {"/baton.v1.Api/Drain", kOperator},
    {"/baton.v1.Api/Cordon", kOperator},
    {"/baton.v1.Api/Uncordon", kOperator},
    {"/baton.v1.Api/Events", kViewer},

    {"/baton.v1.Store/Pin", kOwner},
    {"/baton.v1.Store/Unpin", kOwner},
    {"/baton.v1.Store/Verify", kOperator},
    {"/baton.v1.Store/Orphans", kOperator},
    {"/baton.v1.Store/Collect", kOperator},
    {"/baton.v1.Store/Stats", kViewer},
    {"/baton.v1.Store/Export", kOwner},
    {"/baton.v1.Store/Import", kUser},
    {"/baton.v1.Store/Diff", kOwner},
    {"/baton.v1.Store/Inspect", kOwner},

    {"/baton.v1.Cluster/Register", kNode},
    {"/baton.v1.Cluster/Heartbeat", kNode},
    {"/baton.v1.Cluster/Attach", kNode},
    {"/baton.v1.Cluster/ShipOutput", kNode},
    {"/baton.v1.Cluster/HasSharedFiles", kNode},
    {"/baton.v1.Cluster/UploadCheckpoint", kNode},
    {"/baton.v1.Cluster/DownloadCheckpoint", kNode},
    {"/baton.v1.Cluster/ReportExit", kNode},
    {"/baton.v1.Cluster/ReportCheckpoint", kNode},

    {"/baton.v1.Membership/Enroll", {Rule::For::Everybody}},
    {"/baton.v1.Membership/Renew", {Rule::For::Members}},
    {"/baton.v1.Membership/CreateToken", kAdmin},
    {"/baton.v1.Membership/List", kAdmin},
    {"/baton.v1.Membership/Revoke", kAdmin},
};

constexpr std::string_view role_name(v1::Role role) {
  switch (role) {
    case v1::ROLE_USER: return "user";
    case v1::ROLE_OPERATOR: return "operator";
    case v1::ROLE_ADMIN: return "admin";
    default: return "viewer";
  }
}

// Without TLS; gRPC 1.51 says so itself, others said nothing.
bool is_plain(const grpc::AuthContext& context) {
  const auto types = context.FindPropertyValues(GRPC_TRANSPORT_SECURITY_TYPE_PROPERTY_NAME);
  return types.empty() || (types.size() == 1 && types.front() == "insecure");
}

// Of the certificate that the peer showed and TLS has verified.
Result<wire::PeerName> peer_of(const grpc::AuthContext& context) {
  for (const auto& uri : context.FindPropertyValues(GRPC_PEER_URI_PROPERTY_NAME)) {
    auto name = wire::parse_peer_uri({uri.data(), uri.size()});
    if (name && name->kind != PeerKind::Controller) return *name;
  }
  return fail(ErrorCode::Forbidden,
              "nobody without a certificate of this cluster gets an answer; join it first");
}

Status check_rule(const Rule& rule, const Member& member) {
  const bool node = member.kind == PeerKind::Node;
  if (rule.whom == Rule::For::Members) return {};
  if (rule.whom == Rule::For::Nodes)
    return node ? Status() : Status(fail(ErrorCode::Forbidden, "this is for nodes alone"));
  if (node) return fail(ErrorCode::Forbidden, "this is not for nodes");
  if (member.role >= rule.least) return {};
  return fail(ErrorCode::Forbidden,
              fmt::format("{} is a {}, and this takes a {}{}", member.name, role_name(member.role),
                          role_name(rule.least), rule.least == v1::ROLE_ADMIN ? "" : " or above"));
}

}  // namespace

std::optional<Rule> find_rule(std::string_view method) {
  const auto found = kRules.find(method);
  if (found == kRules.end()) return std::nullopt;
  return found->second;
}

bool Caller::is_node(std::string_view name) const {
  return !member_ || (member_->kind == PeerKind::Node && member_->name == name);
}

bool Caller::may_change(const v1::JobSpec& job) const {
  if (!member_) return true;
  if (member_->kind != PeerKind::User) return false;
  return member_->role >= v1::ROLE_OPERATOR ||
         (member_->role >= v1::ROLE_USER && !job.owner().empty() && job.owner() == member_->name);
}

std::string Caller::user() const {
  return member_ && member_->kind == PeerKind::User ? member_->name : "";
}

grpc::Status Access::Process(const InputMetadata& metadata, grpc::AuthContext* context,
                             OutputMetadata*, OutputMetadata*) {
  const auto path = metadata.find(":path");
  std::optional<Rule> rule;
  if (path != metadata.end()) rule = find_rule({path->second.data(), path->second.size()});
  if (!rule)
    return wire::to_grpc(Error(ErrorCode::Forbidden, "there is no such call, or no rule for it"));
  if (rule->whom == Rule::For::Everybody) return grpc::Status::OK;
  auto allowed = [&]() -> Status {
    BATON_TRY(const wire::PeerName peer, peer_of(*context));
    BATON_TRY(const Member member, members_.look_up(peer, wall_time_ms()));
    return check_rule(*rule, member);
  }();
  return wire::to_grpc(allowed);
}

Result<Caller> Access::caller(const grpc::ServerContextBase& call) const {
  const auto context = call.auth_context();
  if (is_plain(*context)) return Caller(std::nullopt);
  BATON_TRY(const wire::PeerName peer, peer_of(*context));
  BATON_TRY(Member member, members_.look_up(peer, wall_time_ms()));
  return Caller(std::move(member));
}

std::string Access::who(const grpc::ServerContextBase& call) const {
  const auto context = call.auth_context();
  if (is_plain(*context)) return {};
  const auto peer = peer_of(*context);
  return peer ? fmt::format("{} {}", peer->kind == PeerKind::Node ? "node" : "user", peer->name)
              : "nobody";
}

Status Access::check_node(const grpc::ServerContextBase& call, const NodeId& node) const {
  BATON_TRY(const Caller asking, caller(call));
  if (asking.is_node(node.value)) return {};
  return fail(ErrorCode::Forbidden,
              fmt::format("{} can't speak for {}", asking.member()->name, node));
}

Status Access::check_holder(const grpc::ServerContextBase& call, const State& state, JobId job,
                            Generation generation) const {
  const core::JobRecord* record = state.core.find_job(job);
  if (!record) return {};
  if (record->current && record->current->generation == generation)
    return check_node(call, record->current->node);
  if (record->attempt && record->attempt->generation == generation)
    return check_node(call, record->attempt->node);
  return {};
}

Result<JobId> Access::own_job(const grpc::ServerContextBase& call, Loop& loop,
                              const v1::JobRef& ref) const {
  BATON_TRY(const Caller asking, caller(call));
  return loop.with_lock([&](Loop::Locked& l) -> Result<JobId> {
    BATON_TRY(const JobId id, l.state.find_job(ref.name_or_id()));
    const v1::JobSpec& spec = l.state.jobs.at(id).spec;
    if (asking.may_change(spec)) return id;
    return fail(
        ErrorCode::Forbidden,
        fmt::format("job {} belongs to {}, not to {}", ref.name_or_id(),
                    spec.owner().empty() ? "the administrators" : spec.owner(), asking.user()));
  });
}

void hide_secrets(const Caller& caller, v1::JobSpec& job) {
  if (caller.may_change(job)) return;
  for (auto& [name, value] : *job.mutable_env()) value = "(hidden)";
}

}  // namespace baton::control
