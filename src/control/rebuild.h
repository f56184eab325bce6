// State that was lost with state.db, put together again from what else there is: checkpoints, with
// the description of their job in each, output, and what the nodes say that runs on them.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "control/output_log.h"
#include "control/state_db.h"
#include "store/checkpoint_store.h"

namespace baton::control {

// What is left of jobs in the data directory, by job. Ascending by number; one that can't be read
// is in quarantine. No checkpoint: only output is left.
using Remnants = std::map<JobId, std::vector<v1::Checkpoint>>;

struct NodeReport {
  v1::NodeFacts facts;
  std::string boot_id;
  std::vector<v1::Incarnation> incarnations;
};
// By the node's name. Of every node that may run anything: whoever is not in it had no lease at the
// end.
using CensusResult = std::map<std::string, NodeReport>;

Result<Remnants> find_remnants(store::CheckpointStore& checkpoints, const OutputLogs& logs);

// What is to be saved, with events that say what is not known any more; `why` the rest is lost goes
// into them. Pure. Of each job:
//  - It runs where a node says so, as that generation. Of several the newest that runs; one that
//    starts beside a frozen one is the target of a move, which is then carried on or undone.
//  - With none it is stopped: it may have ended, and only a person can know.
//  - Numbers that were used and of which nothing is left are not used again: job ids and
//    generations go on with some distance.
//  - All checkpoints are pinned, since which of them were is not known.
Changes rebuild(const Remnants& remnants, const CensusResult& census, const core::Policy& policy,
                const std::string& why, std::int64_t now_wall_ms);

// Unused numbers after the last that is known.
inline constexpr std::uint64_t kUnseenNumbers = 1'000;
inline constexpr const char* kFoundPin = "records-lost";

}  // namespace baton::control
