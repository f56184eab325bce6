// baton login: become a user of a cluster.
#include "cli/login.h"

#include <fstream>
#include <iostream>
#include <memory>
#include <sstream>

#include "cli/commands/commands.h"
#include "cli/session.h"
#include "cli/terminal.h"
#include "wire/membership.h"

namespace baton::cli {
namespace {

Result<std::string> read_text(const std::string& path) {
  std::ostringstream text;
  if (path == "-") {
    text << std::cin.rdbuf();
    return text.str();
  }
  std::ifstream file(path);
  if (!file) return fail_errno(path);
  text << file.rdbuf();
  return text.str();
}

Status login(const Program& program, const std::string& path) {
  const std::string address = program.controller_address();
  BATON_TRY(const std::string text, read_text(path));
  BATON_TRY(const wire::JoinToken token, wire::parse_join_token(text));
  const wire::Identity identity(program.identity());
  BATON_CHECK(wire::join(address, token, "", identity));
  BATON_CHECK(save_login_address(identity, address));
  BATON_TRY(const wire::CertificateFacts facts, identity.facts());
  fmt::print("{} is known at {}; the key is in {}\n", facts.name->name, address,
             identity.directory().string());
  return {};
}

}  // namespace

void add_login(Program& program) {
  auto path = std::make_shared<std::string>();
  auto* command = add_command(
      program, "login",
      "Become a user of a cluster on another machine. An administrator makes the token (`baton "
      "token create --user NAME`); it is good once and not for long. The key is made here and "
      "stays here. Afterwards --controller is not needed any more.");
  command->add_option("TOKEN-FILE", *path, "File with the token, or - for standard input.")
      ->required();
  command->callback([&program, path] {
    if (auto done = login(program, *path); !done) {
      print_error(done.error().message());
      program.exit_code() = kExitFailure;
    }
  });
}

}  // namespace baton::cli
