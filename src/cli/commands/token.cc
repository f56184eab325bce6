// baton token create: let a node or a user join. baton join-tokens: the same for `baton up`.
#include <fcntl.h>
#include <unistd.h>

#include <chrono>
#include <memory>

#include "base/fd.h"
#include "cli/commands/commands.h"
#include "cli/session.h"
#include "cli/terminal.h"
#include "cli/units.h"

namespace baton::cli {
namespace {

struct Options {
  std::string node, user, role = "user", valid = "10m";
};

Result<v1::CreateTokenRequest> to_request(const Options& options) {
  v1::CreateTokenRequest request;
  BATON_TRY(const std::int64_t valid_ms, parse_duration_ms(options.valid));
  if (valid_ms < 1 || valid_ms > UINT32_MAX)
    return fail(ErrorCode::InvalidArgument, "--valid: a token is good for seven days at most");
  request.set_valid_ms(static_cast<std::uint32_t>(valid_ms));
  request.set_kind(options.user.empty() ? v1::IDENTITY_NODE : v1::IDENTITY_USER);
  request.set_name(options.user.empty() ? options.node : options.user);
  v1::Role role = v1::ROLE_VIEWER;
  std::string name = "ROLE_" + options.role;
  for (char& c : name) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  if (!v1::Role_Parse(name, &role))
    return fail(ErrorCode::InvalidArgument,
                fmt::format("{} is no role: viewer, user, operator, admin", options.role));
  request.set_role(role);
  return request;
}

Result<int> create(Session& session, const Options& options) {
  BATON_TRY(const v1::CreateTokenRequest request, to_request(options));
  BATON_TRY(const v1::Token token, session.call(&v1::Membership::Stub::CreateToken, request));
  fmt::print("{}\n", token.text());
  return 0;
}

Status write_secret(const std::string& path, const std::string& text) {
  const Fd file(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!file.valid()) return fail_errno(path);
  if (::write(file.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()))
    return fail_errno(path);
  return {};
}

// "node-1=FILE" for each node.
Result<int> write_tokens(Session& session, const std::vector<std::string>& wanted) {
  for (const std::string& word : wanted) {
    const auto equals = word.find('=');
    if (equals == std::string::npos)
      return fail(ErrorCode::InvalidArgument, fmt::format("{} is not NAME=FILE", word));
    v1::CreateTokenRequest request;
    request.set_kind(v1::IDENTITY_NODE);
    request.set_name(word.substr(0, equals));
    v1::Token token;
    BATON_CHECK(session.long_call([&](grpc::ClientContext& context) {
      context.set_wait_for_ready(true);  // the controller may be starting
      context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
      return session.membership().CreateToken(&context, request, &token);
    }));
    BATON_CHECK(write_secret(word.substr(equals + 1), token.text() + "\n"));
  }
  return 0;
}

}  // namespace

void add_token(Program& program) {
  auto options = std::make_shared<Options>();
  auto* command = add_command(program, "token", "Let a node or a user join the cluster: create");
  command->require_subcommand(1);
  auto* make = add_command(
      *command, "create",
      "Print a token, one line, with which a node (`baton agent --join FILE`) or a user (`baton "
      "login`) joins. It is good once; who has it gets in, so pass it on like a password. A token "
      "for a name takes the place of whoever had that name. Without --node and --user any new "
      "node may use it.\n\nRoles of users, each may do what those before it may: viewer sees jobs, "
      "output, nodes and events; user runs jobs and does everything with those of its own; "
      "operator "
      "does so with all jobs and looks after nodes and the store; admin decides who is in.");
  auto* node = make->add_option("--node", options->node, "For the node of this name.");
  make->add_option("--user", options->user, "For a user of this name.")->excludes(node);
  make->add_option("--role", options->role, "Of the user. Default: user.")->needs("--user");
  make->add_option("--valid", options->valid, "How long it is good. Default: 10m.");
  on(program, make, [options](Session& session) { return create(session, *options); });
}

void add_join_tokens(Program& program) {
  auto wanted = std::make_shared<std::vector<std::string>>();
  auto* command = add_command(program, "join-tokens", "Write tokens for nodes.");
  command->group("");  // hidden
  command->add_option("NAME=FILE", *wanted, "Nodes, and where their tokens go.")->required();
  on(program, command, [wanted](Session& session) { return write_tokens(session, *wanted); });
}

}  // namespace baton::cli
