// The controller's memory on disk: jobs, nodes, checkpoints, moves and events, in DIR/state.db.
//
// save() makes a set of changes durable, all or none. One thread at a time.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "control/sqlite.h"
#include "core/records.h"
#include "wire/baton.pb.h"

namespace baton::control {

struct JobRow {
  core::JobRecord record;  // checkpoints not included when saving
  v1::JobSpec spec;
  std::int64_t submitted_wall_ms = 0;
  std::int64_t ended_wall_ms = 0;
  std::uint64_t next_checkpoint = 1;
};

struct NodeRow {
  core::NodeRecord record;
  v1::NodeFacts facts;
};

struct CheckpointRow {
  JobId job;
  v1::Checkpoint info;
};

// Later entries for the same thing win.
struct Changes {
  // Encoded when they are made, because the record goes on changing.
  struct Job {
    JobId id;
    std::string record;
    std::optional<std::string> spec;  // only when it is new
    std::int64_t submitted_wall_ms = 0;
    std::int64_t ended_wall_ms = 0;
    std::uint64_t next_checkpoint = 1;
  };
  struct Node {
    NodeId id;
    std::string record;
    std::string facts;
  };
  std::vector<Job> jobs;
  std::vector<Node> nodes;
  std::vector<CheckpointRow> checkpoints;
  std::vector<std::pair<JobId, CheckpointNumber>> removed_checkpoints;
  std::vector<std::pair<JobId, v1::Timing>> moves;
  std::vector<v1::Event> events;
  std::vector<JobId> removed_jobs;
  std::optional<std::uint64_t> next_job_id;

  bool empty() const;
};

struct Loaded {
  std::vector<JobRow> jobs;  // ascending by id
  std::vector<NodeRow> nodes;
  std::vector<CheckpointRow> checkpoints;           // ascending by job, number
  std::vector<std::pair<JobId, v1::Timing>> moves;  // oldest first
  std::vector<v1::Event> events;                    // oldest first
  std::uint64_t next_job_id = 1;
};

class StateDb {
 public:
  static constexpr int kSchema = 1;
  static constexpr std::size_t kKeptMovesPerJob = 200;

  // Makes the database where there is none. Damaged or FailedPrecondition (made by a newer
  // version) otherwise.
  static Result<std::unique_ptr<StateDb>> open(const std::filesystem::path& path);

  Result<Loaded> load();
  // NoSpace: nothing was saved.
  Status save(const Changes& changes);

 private:
  explicit StateDb(std::unique_ptr<Database> database) : database_(std::move(database)) {}
  Status create_schema();
  Status prepare();
  Status load_jobs(Loaded& loaded);
  Status load_rest(Loaded& loaded);
  Status save_jobs(const Changes& changes);
  Status save_checkpoints(const Changes& changes);
  Status save_history(const Changes& changes);

  std::unique_ptr<Database> database_;
  std::optional<Statement> put_job_, put_spec_, drop_job_, drop_checkpoints_, drop_moves_,
      put_node_, put_checkpoint_, drop_checkpoint_, put_move_, trim_moves_, put_event_,
      trim_events_, put_counter_;
};

}  // namespace baton::control
