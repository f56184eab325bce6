// baton export: a checkpoint as one file.
#include <unistd.h>

#include <memory>

#include "cli/checkpoint_ref.h"
#include "cli/commands/commands.h"
#include "cli/file_aside.h"
#include "cli/session.h"
#include "cli/terminal.h"
#include "cli/units.h"

namespace baton::cli {
namespace {

struct Options {
  std::string checkpoint;
  std::string file;
};

Result<int> export_to(Session& session, const v1::CheckpointRef& ref, const std::string& path) {
  auto send = [&](const std::function<Status(std::string_view)>& write) {
    return session.stream(&v1::Store::Stub::Export, ref,
                          [&](const v1::ExportPart& part) { return write(part.data()); });
  };
  if (path == "-") {
    if (::isatty(STDOUT_FILENO))
      return fail(ErrorCode::InvalidArgument, "an archive is nothing for a terminal");
    BATON_CHECK(send([](std::string_view data) { return write_stdout(data); }));
    return 0;
  }
  std::uint64_t bytes = 0;
  BATON_TRY(FileAside file, FileAside::create(path));
  BATON_CHECK(send([&](std::string_view data) {
    bytes += data.size();
    return file.write(data);
  }));
  BATON_CHECK(file.publish());
  fmt::print("{}: {}, not encrypted\n", path, format_size(bytes));
  return 0;
}

}  // namespace

void add_export(Program& program) {
  auto options = std::make_shared<Options>();
  auto* command = add_command(program, "export",
                              "Write a checkpoint to a file from which another cluster can go on "
                              "with the job: baton import. "
                              "It holds all of the checkpoint, the job's command, environment and "
                              "options, and its output up "
                              "to that instant; the job itself is not touched.\n\nEverything is "
                              "compared with its hashes on "
                              "the way. The file appears under its name when it is whole, and "
                              "replaces one that has the name. "
                              "It is the program's memory, with every secret in it, and not "
                              "encrypted, also when the store is: only you may read it.");
  command
      ->add_option("JOB[@NUMBER]", options->checkpoint,
                   "The job and the checkpoint's number. Default: the newest good one.")
      ->required();
  command->add_option("FILE", options->file, "Where to; - is standard output.")->required();
  command->callback([&program, options] {
    auto ref = parse_checkpoint(options->checkpoint);
    if (!ref) throw CLI::ValidationError("export: " + ref.error().message(), kExitUsage);
    run_command(program, [&](Session& session) { return export_to(session, *ref, options->file); });
  });
}

}  // namespace baton::cli
