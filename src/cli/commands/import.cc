// baton import: a job out of a file that baton export wrote.
#include <fcntl.h>
#include <unistd.h>

#include <memory>

#include "base/fd.h"
#include "cli/commands/commands.h"
#include "cli/moved.h"
#include "cli/session.h"
#include "cli/terminal.h"
#include "wire/channel.h"

namespace baton::cli {
namespace {

struct Options {
  std::string file;
  std::string name;
  bool restore = false;
  std::string to;
  bool json = false;
};

// False: the controller has ended the call, and Finish() says why.
Result<bool> send_file(grpc::ClientWriter<v1::ImportPart>& writer, int fd, const Options& options) {
  v1::ImportPart part;
  part.set_name(options.name);
  if (!writer.Write(part)) return false;
  for (;;) {
    std::string& data = *part.mutable_data();
    data.resize(wire::kChunkBytes);
    const ssize_t count = ::read(fd, data.data(), data.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return fail_errno(fmt::format("read {}", options.file));
    if (count == 0) return true;
    data.resize(static_cast<std::size_t>(count));
    if (!writer.Write(part)) return false;
  }
}

Result<v1::Job> import_from(Session& session, const Options& options) {
  Fd file;
  if (options.file != "-") {
    file = Fd(::open(options.file.c_str(), O_RDONLY | O_CLOEXEC));
    if (!file.valid()) return fail_errno(options.file);
  }
  v1::Job job;
  Status read;
  Status called = session.long_call([&](grpc::ClientContext& context) {
    auto writer = session.store().Import(&context, &job);
    auto sent = send_file(*writer, file.valid() ? file.get() : STDIN_FILENO, options);
    if (!sent) {
      read = fail(sent.error());
      context.TryCancel();
    } else {
      writer->WritesDone();
    }
    return writer->Finish();
  });
  BATON_CHECK(read);
  BATON_CHECK(called);
  return job;
}

Result<int> run(Session& session, const Options& options) {
  BATON_TRY(const v1::Job job, import_from(session, options));
  if (options.restore) {
    v1::RestoreRequest request;
    request.mutable_job()->set_name_or_id(std::to_string(job.id()));
    request.set_to(options.to);
    BATON_TRY(const v1::MoveReply reply, session.call_long(&v1::Api::Stub::Restore, request));
    return report_move(reply, options.json);
  }
  if (options.json)
    print_json(to_json(job));
  else
    fmt::print("{}\n", job.spec().name());
  return 0;
}

}  // namespace

void add_import(Program& program) {
  auto options = std::make_shared<Options>();
  auto* command = add_command(
      program, "import",
      "Make a job out of a file that `baton export` wrote, on this or another cluster. The job is "
      "new: it has a number of its own, one checkpoint, the output up to that, and is stopped; "
      "`baton restore` (or --restore) goes on from there on a node that has what it needs.\n\nThe "
      "file is not trusted: everything in it is checked and compared with its hashes, and nothing "
      "is "
      "visible before all of it has been. Restoring it runs whatever program is in it, though, as "
      "the user it ran as.");
  command->add_option("FILE", options->file, "What to read; - is standard input.")->required();
  command->add_option("--name", options->name, "Name of the job. Default: the one it had.");
  command->add_flag("--restore", options->restore, "Restore it at once, and wait for that.");
  command->add_option("--to", options->to,
                      "With --restore: the node. Default: the controller chooses.");
  command->add_flag("--json", options->json, "As JSON.");
  command->callback([&program, options] {
    if (!options->to.empty() && !options->restore)
      throw CLI::ValidationError("import: --to needs --restore", kExitUsage);
    run_command(program, [&](Session& session) { return run(session, *options); });
  });
}

}  // namespace baton::cli
