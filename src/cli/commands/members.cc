// baton members, node revoke, user revoke: who is in the cluster.
#include <memory>

#include "cli/commands/commands.h"
#include "cli/session.h"
#include "cli/terminal.h"
#include "cli/units.h"

namespace baton::cli {
namespace {

std::string describe_role(const v1::Identity& identity) {
  if (identity.kind() == v1::IDENTITY_NODE) return "node";
  std::string role = v1::Role_Name(identity.role()).substr(5);
  for (char& c : role) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return role;
}

Result<int> members(Session& session, bool json) {
  BATON_TRY(const v1::ListIdentitiesReply reply,
            session.call(&v1::Membership::Stub::List, v1::ListIdentitiesRequest()));
  if (json) {
    print_json(to_json_list(reply.identities()));
    return 0;
  }
  Table table({"NAME", "ROLE", "STATE", "SINCE", "CERTIFICATE UNTIL"});
  for (const v1::Identity& identity : reply.identities())
    table.add({identity.name(), describe_role(identity), identity.revoked() ? "shut out" : "in",
               format_date(identity.since_wall_ms()), format_date(identity.expires_wall_ms())});
  table.print();
  return 0;
}

void add_revoke(Program& program, const char* name, const char* summary, const char* help,
                v1::IdentityKind kind) {
  auto who = std::make_shared<std::string>();
  auto* parent = add_command(program, name, summary);
  parent->require_subcommand(1);
  auto* command = add_command(*parent, "revoke", help);
  command->add_option("NAME", *who, "Who is to go.")->required();
  on(program, command, [who, kind](Session& session) -> Result<int> {
    v1::RevokeRequest request;
    request.set_kind(kind);
    request.set_name(*who);
    BATON_TRY(const v1::Identity gone, session.call(&v1::Membership::Stub::Revoke, request));
    fmt::print("{} is shut out\n", gone.name());
    return 0;
  });
}

}  // namespace

void add_members(Program& program) {
  auto json = std::make_shared<bool>(false);
  auto* command =
      add_command(program, "members",
                  "List the nodes and users that have joined the cluster by a token. "
                  "Root on the controller's machine needs none and is not in the list.");
  command->add_flag("--json", *json, "As JSON.");
  on(program, command, [json](Session& session) { return members(session, *json); });
}

void add_node(Program& program) {
  add_revoke(
      program, "node", "Shut a node out of the cluster: revoke",
      "Shut a node out, for good: its certificates count no more from now on. Its lease runs "
      "out, its jobs end there and go on elsewhere from their newest checkpoints. `baton "
      "drain` first, if it can still be trusted to give them up.",
      v1::IDENTITY_NODE);
}

void add_user(Program& program) {
  add_revoke(program, "user", "Shut a user out of the cluster: revoke",
             "Shut a user out: its certificates count no more from now on. Its jobs run on.",
             v1::IDENTITY_USER);
}

}  // namespace baton::cli
