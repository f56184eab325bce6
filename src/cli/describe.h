// Jobs, moves and nodes in words for people.
#pragma once

#include <cstddef>
#include <string>

#include "wire/baton.pb.h"

namespace baton::cli {

std::string describe_state(const v1::Job& job);       // "running", "exited (0)"
std::string describe_protection(const v1::Job& job);  // "yes", "no", "-" once it has ended
std::string describe_command(const v1::JobSpec& spec);
std::string describe_move(const v1::Timing& move);  // "node-1 -> node-2 (cpu-overload)"
std::string describe_node_state(const v1::Node& node);
// Cut to `columns` with an ellipsis.
std::string shorten(const std::string& text, std::size_t columns);
// One row per move: when, cause, from, to and the five durations.
std::string moves_table(const v1::Job& job);
std::string describe_quality(const v1::Checkpoint& checkpoint);  // "good", "DAMAGED: …"
// One row per checkpoint.
std::string checkpoints_table(const v1::ListCheckpointsReply& list);
// Whether it has ended, one way or another.
bool has_ended(const v1::Job& job);

}  // namespace baton::cli
