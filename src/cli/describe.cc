#include "cli/describe.h"

#include <fmt/format.h>

#include "base/clock.h"
#include "cli/terminal.h"
#include "cli/units.h"

namespace baton::cli {
namespace {

// Each with `before` in front of it.
template <typename Items>
std::string joined(const char* before, const Items& items) {
  std::string out;
  for (const auto& item : items) out += before + item;
  return out;
}

std::string pins(const v1::Checkpoint& checkpoint) {
  const std::string names = joined(" ", checkpoint.pins());
  return names.empty() ? "-" : names.substr(1);
}

}  // namespace

bool has_ended(const v1::Job& job) {
  return job.state() == v1::JOB_EXITED || job.state() == v1::JOB_STOPPED ||
         job.state() == v1::JOB_FAILED;
}

std::string describe_state(const v1::Job& job) {
  std::string word = enum_word(v1::JobState_descriptor(), job.state());
  if (has_ended(job) && job.has_exit_code()) word += fmt::format(" ({})", job.exit_code());
  return word;
}

std::string describe_protection(const v1::Job& job) {
  if (has_ended(job)) return "-";
  if (job.is_protected()) return "yes";
  return job.unprotected_cause().empty() ? "not yet" : "UNPROTECTED";
}

std::string describe_command(const v1::JobSpec& spec) {
  std::string line;
  for (const std::string& word : spec.argv()) line += (line.empty() ? "" : " ") + format_word(word);
  return line;
}

std::string describe_move(const v1::Timing& move) {
  return fmt::format("{} -> {} ({})", move.from().empty() ? "?" : move.from(),
                     move.to().empty() ? "?" : move.to(), move.cause());
}

std::string describe_node_state(const v1::Node& node) {
  std::string word = enum_word(v1::NodeState_descriptor(), node.state());
  if (node.draining())
    word += ", draining";
  else if (node.cordoned())
    word += ", cordoned";
  if (node.overloaded()) word += ", overloaded";
  if (node.sample().about_to_fail()) word += ", about to fail";
  return word;
}

std::string shorten(const std::string& text, std::size_t columns) {
  if (text.size() <= columns) return text;
  std::size_t end = columns > 3 ? columns - 3 : 0;
  while (end > 0 && (text[end] & 0xc0) == 0x80) --end;  // not within a UTF-8 sequence
  return text.substr(0, end) + "...";
}

std::string moves_table(const v1::Job& job) {
  Table table({"WHEN", "CAUSE", "FROM", "TO", "CHECKPOINT", "DETECT", "DECIDE", "STAGE", "TRANSFER",
               "RESTORE", "DOWNTIME", "RESULT"});
  for (const v1::Timing& move : job.moves())
    table.add({format_clock(move.at_wall_ms()), move.cause(), move.from(), move.to(),
               std::to_string(move.checkpoint()), format_duration_ms(move.detect_ms()),
               format_duration_ms(move.decide_ms()), format_duration_ms(move.stage_ms()),
               format_duration_ms(move.transfer_ms()), format_duration_ms(move.restore_ms()),
               format_duration_ms(move.downtime_ms()),
               move.ok() ? "ok" : "failed: " + move.error()});
  return table.text();
}

std::string describe_quality(const v1::Checkpoint& checkpoint) {
  if (checkpoint.quarantined()) return "quarantined: " + checkpoint.quarantine_cause();
  if (checkpoint.damage_size()) return "DAMAGED: " + checkpoint.damage(0);
  return checkpoint.preflighted() ? "good, proven to restore" : "good";
}

std::string checkpoints_table(const v1::ListCheckpointsReply& list) {
  const std::int64_t now = wall_time_ms();
  Table table({"NUMBER", "TAKEN", "CAUSE", "SIZE", "NEW", "PAUSE", "PROCESSES", "WHERE", "VERIFIED",
               "PINS", "STATUS"});
  for (const v1::Checkpoint& checkpoint : list.checkpoints())
    table.add({std::to_string(checkpoint.number()), format_ago(checkpoint.taken_wall_ms(), now),
               checkpoint.cause(), format_size(checkpoint.size_bytes()),
               format_size(checkpoint.new_bytes()), format_duration_ms(checkpoint.frozen_ms()),
               std::to_string(checkpoint.processes()),
               fmt::format("controller{}", joined(", ", checkpoint.copies())),
               format_ago(checkpoint.verified_wall_ms(), now), pins(checkpoint),
               describe_quality(checkpoint)});
  return table.text();
}

}  // namespace baton::cli
