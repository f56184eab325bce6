// baton rm: forget jobs that have ended.
#include <memory>

#include "cli/commands/commands.h"
#include "cli/session.h"

namespace baton::cli {
namespace {

Result<int> rm(Session& session, const std::vector<std::string>& jobs) {
  for (const std::string& name : jobs) {
    v1::JobRef ref;
    ref.set_name_or_id(name);
    BATON_CHECK(session.call(&v1::Api::Stub::Remove, ref));
  }
  return 0;
}

}  // namespace

void add_rm(Program& program) {
  auto jobs = std::make_shared<std::vector<std::string>>();
  auto* command = add_command(
      program, "rm",
      "Remove jobs that have ended, with their output and all their checkpoints, for good. Pinned "
      "checkpoints go as well: export what is to stay. In an encrypted store the job's key is "
      "forgotten first, so nothing of it can be read from then on. A running job is refused: stop "
      "or kill it first.");
  command->add_option("JOB", *jobs, "Names or ids.")->required();
  on(program, command, [jobs](Session& session) { return rm(session, *jobs); });
}

}  // namespace baton::cli
