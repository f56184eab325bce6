// baton store: check, gc, stats.
#include <memory>

#include "cli/commands/commands.h"
#include "cli/session.h"
#include "cli/terminal.h"
#include "cli/units.h"
#include "cli/verified.h"

namespace baton::cli {
namespace {

// Of an encrypted store alone.
void print_unencrypted(const v1::StoreStatsReply& stats) {
  if (!stats.encrypted() || stats.unencrypted() == 0) return;
  fmt::print("{} checkpoints are from before the store had a key and not encrypted\n",
             stats.unencrypted());
}

Result<int> check(Session& session, bool json) {
  BATON_TRY(const VerifyTotals totals, show_verification(session, {}, json));
  BATON_TRY(const v1::StoreOrphansReply list,
            session.call_long(&v1::Store::Stub::Orphans, v1::Empty()));
  for (const v1::StoreOrphan& orphan : list.orphans()) {
    if (json)
      print_json(to_json(orphan), false);
    else
      fmt::print("{}: {}, {}\n", orphan.path(), orphan.what(), format_size(orphan.bytes()));
  }
  BATON_TRY(const v1::StoreStatsReply stats,
            session.call_long(&v1::Store::Stub::Stats, v1::Empty()));
  if (!json) print_unencrypted(stats);
  if (!json)
    fmt::print("{} checkpoints, {} damaged; {} things that belong to none{}\n", totals.checkpoints,
               totals.damaged, list.orphans_size(), list.orphans_size() ? " (baton store gc)" : "");
  return totals.damaged || list.orphans_size() ? kExitFailure : 0;
}

Result<int> collect(Session& session, bool json) {
  BATON_TRY(const v1::CollectReply reply,
            session.call_long(&v1::Store::Stub::Collect, v1::Empty()));
  if (json) {
    print_json(to_json(reply));
    return 0;
  }
  for (const v1::VerifiedCheckpoint& retired : reply.retired())
    fmt::print("removed {}@{}: its job's policy does not keep it\n", retired.job_name(),
               retired.number());
  for (const v1::StoreOrphan& orphan : reply.orphans())
    fmt::print("removed {}: {}\n", orphan.path(), orphan.what());
  fmt::print("freed {}\n", format_size(reply.freed_bytes()));
  return 0;
}

std::string ratio(std::uint64_t whole, std::uint64_t part) {
  if (part == 0) return "-";
  return fmt::format("{:.1f}", static_cast<double>(whole) / static_cast<double>(part));
}

Result<int> stats(Session& session, bool json) {
  BATON_TRY(const v1::StoreStatsReply reply,
            session.call_long(&v1::Store::Stub::Stats, v1::Empty()));
  if (json) {
    print_json(to_json(reply));
    return 0;
  }
  Table table({"KIND", "FILES", "STORED", "WITHOUT SHARING"});
  for (const v1::StoreKind& kind : reply.kinds())
    table.add({kind.kind(), std::to_string(kind.files()), format_size(kind.stored_bytes()),
               format_size(kind.logical_bytes())});
  table.print();
  fmt::print("\n{} checkpoints of {} jobs, {} pinned, {} unreadable\n", reply.checkpoints(),
             reply.jobs(), reply.pinned(), reply.unreadable());
  fmt::print("{} stored; sharing saves a factor of {}, compression of memory one of {}\n",
             format_size(reply.stored_bytes()), ratio(reply.logical_bytes(), reply.stored_bytes()),
             ratio(reply.page_bytes(), reply.page_stored_bytes()));
  fmt::print("{} free\n", format_size(reply.free_bytes()));
  fmt::print("{}\n", reply.encrypted() ? "encrypted" : "not encrypted");
  print_unencrypted(reply);
  return 0;
}

void add_part(Program& program, CLI::App& parent, const char* name, const char* help,
              const char* json_help, Result<int> (*action)(Session&, bool)) {
  auto json = std::make_shared<bool>(false);
  auto* command = add_command(parent, name, help);
  command->add_flag("--json", *json, json_help);
  on(program, command, [json, action](Session& session) { return action(session, *json); });
}

}  // namespace

void add_store(Program& program) {
  auto* command = add_command(program, "store",
                              "Look after the controller's store of checkpoints: check, gc, stats");
  command->require_subcommand(1);
  add_part(
      program, *command, "check",
      "Verify all checkpoints (baton verify --all) and list what lies in the store's directory "
      "and belongs to none. Ends with 1 when something is damaged or belongs to none. Removes "
      "nothing.",
      "One JSON object per line: checkpoints, then what belongs to none.", check);
  add_part(
      program, *command, "gc",
      "Remove now what nobody needs: checkpoints that their job's policy does not keep, shared "
      "files to which no checkpoint links, folders of checkpoints that are not recorded. The "
      "controller does so by itself, after each checkpoint and when it starts, so there is "
      "rarely anything. The newest good checkpoint of a job and those that are pinned always "
      "stay; so does what Baton did not make.",
      "As JSON.", collect);
  add_part(program, *command, "stats",
           "Show how much is stored: by kind, and what it would be if checkpoints shared nothing. "
           "Compression is that of tracked memory.",
           "As JSON.", stats);
}

}  // namespace baton::cli
