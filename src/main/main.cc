// One program, many subcommands.
#include <CLI/CLI.hpp>
#include <memory>

#include "agent/agent.h"
#include "cli/cli.h"
#include "control/controller_main.h"
#include "main/doctor.h"
#include "up/up.h"

namespace {

using namespace baton;

void add_controller(cli::Program& program) {
  auto options = std::make_shared<control::ControllerOptions>();
  auto* command = program.app().add_subcommand(
      "controller",
      "The controller of a cluster: knows the jobs and nodes, keeps checkpoints and output, and "
      "decides what runs where. Jobs run on without it, as long as their lease lasts.");
  control::add_options(*command, *options);
  command->callback(
      [&program, options] { program.exit_code() = control::run_controller(*options); });
}

void add_agent(cli::Program& program) {
  auto options = std::make_shared<agent::AgentOptions>();
  auto* command = program.app().add_subcommand(
      "agent",
      "Runs on each node: starts, checkpoints and restores jobs as the controller orders.");
  agent::add_options(*command, *options);
  command->callback([&program, options] { program.exit_code() = agent::run_agent(*options); });
}

}  // namespace

int main(int argc, char** argv) {
  cli::Program program;
  cli::add_commands(program);
  up::add_commands(program.app(), program.exit_code());
  add_controller(program);
  add_agent(program);
  add_doctor(program.app(), program.exit_code());
  return program.run(argc, argv);
}
