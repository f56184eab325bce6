// The command line: one program, many subcommands.
//
// src/main composes it: it makes a Program, adds the client's commands and those of the other
// modules (controller, agent, up, doctor) and calls run() once.
#pragma once

#include <CLI/CLI.hpp>
#include <filesystem>
#include <string>
#include <vector>

namespace baton::cli {

constexpr int kExitFailure = 1;
constexpr int kExitUsage = 2;
// Baton's own failure where the exit code is otherwise the job's.
constexpr int kExitBaton = 125;

// Single-threaded until a command runs.
class Program {
 public:
  Program();
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  CLI::App& app() { return app_; }
  // A command's callback leaves its exit code here.
  int& exit_code() { return exit_code_; }
  // Where the controller is: --controller, BATON_CONTROLLER, or the default.
  std::string controller_address() const;
  // The user's place in a cluster: --identity, BATON_IDENTITY, or the default.
  std::filesystem::path identity() const;
  bool insecure() const { return insecure_; }
  // What followed `run [flags]`, byte for byte. Valid when a callback runs.
  const std::vector<std::string>& passthrough() const { return passthrough_; }

  // Parses, runs the chosen command and returns the exit code of the process. Everything after
  // the command word of `run` reaches passthrough() untouched by the parser.
  int run(int argc, char** argv);

 private:
  CLI::App app_;
  int exit_code_ = 0;
  std::string controller_;
  std::filesystem::path identity_;
  bool insecure_ = false;
  std::vector<std::string> passthrough_;
};

// Every command that talks to a controller. `program` must outlive its run().
void add_commands(Program& program);

// Splits off what follows the options of `run` (and an optional "--") in `arguments`, which start
// after the program's name. Empty unless the subcommand is `run`. Separate for its test.
std::vector<std::string> split_passthrough(const CLI::App& app,
                                           std::vector<std::string>& arguments);

}  // namespace baton::cli
