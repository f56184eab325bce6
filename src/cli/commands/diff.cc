// baton diff: what changed from one checkpoint to another.
#include <memory>

#include "cli/commands/commands.h"
#include "cli/session.h"
#include "cli/terminal.h"
#include "cli/units.h"

namespace baton::cli {
namespace {

struct Options {
  std::string job;
  std::uint64_t a = 0;
  std::uint64_t b = 0;
  bool json = false;
};

void print_memory(const v1::DiffReply& reply, const Options& options) {
  Table table({"PROCESS", "SAME", "CHANGED", "APPEARED", "VANISHED", "REMARK"});
  for (const v1::ProcessDiff& process : reply.processes())
    table.add({std::to_string(process.pid()), std::to_string(process.same()),
               std::to_string(process.changed()), std::to_string(process.appeared()),
               std::to_string(process.vanished()),
               process.only_in().empty()
                   ? ""
                   : fmt::format("only in {}", process.only_in() == "a" ? options.a : options.b)});
  fmt::print("Memory, in pages of 4 KiB:\n");
  table.print();
  if (reply.untracked_bytes_a() || reply.untracked_bytes_b())
    fmt::print("not compared: {} in {} and {} in {} that were not tracked\n",
               format_size(reply.untracked_bytes_a()), options.a,
               format_size(reply.untracked_bytes_b()), options.b);
}

void print_files(const v1::DiffReply& reply) {
  if (reply.files_size() == 0) {
    fmt::print("\nNo private file differs.\n");
    return;
  }
  Table table({"CHANGE", "SIZE", "THEN", "FILE"});
  for (const v1::FileDiff& file : reply.files())
    table.add({file.change(), file.change() == "appeared" ? "-" : format_size(file.bytes_a()),
               file.change() == "vanished" ? "-" : format_size(file.bytes_b()),
               format_word(file.path())});
  fmt::print("\nPrivate files:\n");
  table.print();
  if (reply.files_cut()) fmt::print("... and more\n");
}

Result<int> diff(Session& session, const Options& options) {
  v1::DiffRequest request;
  request.mutable_job()->set_name_or_id(options.job);
  request.set_a(options.a);
  request.set_b(options.b);
  BATON_TRY(const v1::DiffReply reply, session.call_long(&v1::Store::Stub::Diff, request));
  if (options.json) {
    print_json(to_json(reply));
    return 0;
  }
  print_memory(reply, options);
  print_files(reply);
  return 0;
}

}  // namespace

void add_diff(Program& program) {
  auto options = std::make_shared<Options>();
  auto* command = add_command(
      program, "diff",
      "Show what changed from one checkpoint of a job to another: pages of each process, and its "
      "private files. A page has changed when its content has, wherever it is stored. A file has "
      "changed when its content, owner, mode or time has. Memory that was not tracked (`baton "
      "inspect` says why) is not compared.");
  command->add_option("JOB", options->job, "Name or id.")->required();
  command->add_option("A", options->a, "Number of the first checkpoint.")
      ->required()
      ->check(whole_number(1));
  command->add_option("B", options->b, "Number of the second one.")
      ->required()
      ->check(whole_number(1));
  command->add_flag("--json", options->json, "As JSON.");
  on(program, command, [options](Session& session) { return diff(session, *options); });
}

}  // namespace baton::cli
