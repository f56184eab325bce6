#include "cli/cli.h"

#include <fmt/format.h>

#include <filesystem>

#include "cli/commands/commands.h"
#include "cli/login.h"
#include "cli/session.h"
#include "wire/channel.h"

namespace baton::cli {
namespace {

// Of `baton up`, and of a controller with its default data directory.
constexpr const char* kDefaultSockets[] = {"/run/baton/baton.sock",
                                           "/var/lib/baton/controller/baton.sock"};

// How many of the following words belong to the option at the front: 0 when it is a flag or
// carries its value itself. Unknown options count as flags; the parser reports them later.
std::size_t values_of(const CLI::App& app, const CLI::App* command, const std::string& word) {
  std::string name = word;
  if (word.starts_with("--")) {
    if (word.find('=') != std::string::npos) return 0;
  } else if (word.size() > 2) {
    return 0;  // -eKEY=VALUE
  }
  const CLI::Option* option = command ? command->get_option_no_throw(name) : nullptr;
  if (!option) option = app.get_option_no_throw(name);
  return option && option->get_items_expected_min() > 0 ? 1 : 0;
}

bool is_option(const std::string& word) { return word.size() > 1 && word[0] == '-'; }

// The word in the place of a subcommand, if it names none.
std::string unknown_command(const CLI::App& app, const std::vector<std::string>& arguments) {
  for (std::size_t at = 0; at < arguments.size(); ++at) {
    if (is_option(arguments[at])) {
      at += values_of(app, nullptr, arguments[at]);
      continue;
    }
    const auto known =
        app.get_subcommands([&](const CLI::App* sub) { return sub->check_name(arguments[at]); });
    return known.empty() ? arguments[at] : "";
  }
  return "";
}

}  // namespace

std::vector<std::string> split_passthrough(const CLI::App& app,
                                           std::vector<std::string>& arguments) {
  const CLI::App* command = nullptr;
  for (std::size_t at = 0; at < arguments.size(); ++at) {
    const std::string& word = arguments[at];
    const bool end_of_options = word == "--";
    if (!end_of_options && is_option(word)) {
      at += values_of(app, command, word);
      continue;
    }
    if (!command) {
      if (word != "run") return {};
      command = app.get_subcommand("run");
      continue;
    }
    std::vector<std::string> rest(
        arguments.begin() + static_cast<std::ptrdiff_t>(at + (end_of_options ? 1 : 0)),
        arguments.end());
    arguments.resize(at);
    return rest;
  }
  return {};
}

Program::Program()
    : app_("Baton keeps long-running Linux processes alive when the machine under them fails.",
           "baton") {
  app_.require_subcommand(1);
  app_.fallthrough();
  app_.add_option("--controller", controller_,
                  "Where the controller listens: HOST:PORT or unix:PATH. Default: "
                  "$BATON_CONTROLLER, else the socket of `baton up` or of a controller on this "
                  "machine, else that of `baton login`, else 127.0.0.1:7077.")
      ->envname("BATON_CONTROLLER");
  app_.add_option("--identity", identity_,
                  "Folder of `baton login`, for a controller by HOST:PORT. Default: "
                  "$BATON_IDENTITY, else baton in $XDG_CONFIG_HOME or ~/.config.")
      ->envname("BATON_IDENTITY");
  app_.add_flag("--insecure", insecure_,
                "The controller is on loopback and was started with --insecure: no TLS.");
}

std::string Program::controller_address() const {
  if (!controller_.empty()) return controller_;
  std::error_code ignored;
  for (const char* socket : kDefaultSockets)
    if (std::filesystem::exists(socket, ignored)) return socket;
  if (const std::string known = login_address(wire::Identity(identity())); !known.empty())
    return known;
  return wire::kDefaultClusterAddress;
}

std::filesystem::path Program::identity() const {
  if (!identity_.empty()) return identity_;
  if (const char* config = std::getenv("XDG_CONFIG_HOME"); config && *config)
    return std::filesystem::path(config) / "baton";
  const char* home = std::getenv("HOME");
  return std::filesystem::path(home && *home ? home : "/root") / ".config" / "baton";
}

int Program::run(int argc, char** argv) {
  std::vector<std::string> arguments(argv + 1, argv + argc);
  passthrough_ = split_passthrough(app_, arguments);
  const auto typed = arguments;
  std::reverse(arguments.begin(), arguments.end());  // CLI11 takes them from the back
  try {
    app_.parse(std::move(arguments));
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app_.exit(error);  // --help
    if (const std::string word = unknown_command(app_, typed); !word.empty())
      fmt::print(stderr, "baton: {} is not a command; baton --help lists them\n", word);
    else if (app_.get_subcommands().empty())
      fmt::print(stderr, "baton: a command is missing; baton --help lists them\n");
    else
      fmt::print(stderr, "baton: {}\n", error.what());
    return kExitUsage;
  }
  return exit_code_;
}

void add_commands(Program& program) {
  add_run(program);
  add_ps(program);
  add_inspect(program);
  add_logs(program);
  add_wait(program);
  add_checkpoint(program);
  add_checkpoints(program);
  add_pin(program);
  add_unpin(program);
  add_verify(program);
  add_store(program);
  add_export(program);
  add_import(program);
  add_diff(program);
  add_migrate(program);
  add_restore(program);
  add_stop(program);
  add_kill(program);
  add_rm(program);
  add_nodes(program);
  add_drain(program);
  add_cordon(program);
  add_uncordon(program);
  add_events(program);
  add_version(program);
  add_login(program);
  add_token(program);
  add_members(program);
  add_node(program);
  add_user(program);
  add_await_nodes(program);
  add_join_tokens(program);
}

}  // namespace baton::cli
