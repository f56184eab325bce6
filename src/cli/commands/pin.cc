// baton pin, baton unpin: which checkpoints retention leaves alone.
#include <memory>

#include "cli/commands/commands.h"
#include "cli/session.h"
#include "cli/terminal.h"

namespace baton::cli {
namespace {

struct Options {
  std::string job;
  std::uint64_t number = 0;
  std::string name;
  bool json = false;
};

void show(const Options& options, const v1::Checkpoint& info) {
  if (options.json) return print_json(to_json(info));
  std::string pins;
  for (const std::string& name : info.pins()) pins += (pins.empty() ? "" : ", ") + name;
  fmt::print("{}@{}: {}\n", options.job, info.number(),
             pins.empty() ? "not pinned" : "pinned (" + pins + ")");
}

template <typename Request>
Result<int> change(Session& session, const Options& options,
                   grpc::Status (v1::Store::Stub::*method)(grpc::ClientContext*, const Request&,
                                                           v1::Checkpoint*)) {
  Request request;
  request.mutable_checkpoint()->mutable_job()->set_name_or_id(options.job);
  request.mutable_checkpoint()->set_number(options.number);
  request.set_name(options.name);
  BATON_TRY(const v1::Checkpoint info, session.call(method, request));
  show(options, info);
  return 0;
}

CLI::App* add_common(Program& program, Options& options, const char* name, const char* help,
                     const char* name_help) {
  auto* command = add_command(program, name, help);
  command->add_option("JOB", options.job, "Name or id.")->required();
  command->add_option("NUMBER", options.number, "Of the checkpoint, see `baton checkpoints`.")
      ->required()
      ->check(whole_number(1));
  command->add_option("--name", options.name, name_help);
  command->add_flag("--json", options.json, "Print the checkpoint as JSON.");
  return command;
}

}  // namespace

void add_pin(Program& program) {
  auto options = std::make_shared<Options>();
  auto* command = add_common(
      program, *options, "pin",
      "Keep a checkpoint: retention never removes one that is pinned, however old it grows. "
      "It counts towards the number that the policy keeps while it is among the newest. `baton rm` "
      "of its job removes it all the same.",
      "Why it is kept; a checkpoint may have several pins of different names. Default: "
      "\"pinned\".");
  on(program, command, [options](Session& session) {
    return change<v1::PinRequest>(session, *options, &v1::Store::Stub::Pin);
  });
}

void add_unpin(Program& program) {
  auto options = std::make_shared<Options>();
  auto* command = add_common(
      program, *options, "unpin",
      "Take a pin off a checkpoint. When it was the last one and the job's policy does not keep "
      "the checkpoint, that is removed at once.",
      "The pin to take off. Default: all.");
  on(program, command, [options](Session& session) {
    return change<v1::UnpinRequest>(session, *options, &v1::Store::Stub::Unpin);
  });
}

}  // namespace baton::cli
