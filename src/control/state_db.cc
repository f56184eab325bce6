#include "control/state_db.h"

#include "control/event_log.h"
#include "control/record_codec.h"

namespace baton::control {
namespace {

constexpr const char* kSchemaSql = R"(
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE jobs (
  id INTEGER PRIMARY KEY,
  spec BLOB NOT NULL,
  record TEXT NOT NULL,
  submitted_wall_ms INTEGER NOT NULL,
  ended_wall_ms INTEGER NOT NULL,
  next_checkpoint INTEGER NOT NULL);
CREATE TABLE nodes (name TEXT PRIMARY KEY, record TEXT NOT NULL, facts BLOB NOT NULL);
CREATE TABLE checkpoints (
  job INTEGER NOT NULL,
  number INTEGER NOT NULL,
  info BLOB NOT NULL,
  PRIMARY KEY (job, number)) WITHOUT ROWID;
CREATE TABLE moves (
  sequence INTEGER PRIMARY KEY AUTOINCREMENT,
  job INTEGER NOT NULL,
  timing BLOB NOT NULL);
CREATE INDEX moves_by_job ON moves(job, sequence);
CREATE TABLE events (sequence INTEGER PRIMARY KEY, event BLOB NOT NULL);
)";

template <typename Message>
Status parse(Message& message, const std::string& bytes, std::string_view what) {
  if (message.ParseFromString(bytes)) return {};
  return fail(ErrorCode::Damaged, fmt::format("database: a {} can't be read", what));
}

}  // namespace

bool Changes::empty() const {
  return jobs.empty() && nodes.empty() && checkpoints.empty() && removed_checkpoints.empty() &&
         moves.empty() && events.empty() && removed_jobs.empty() && !next_job_id;
}

Result<std::unique_ptr<StateDb>> StateDb::open(const std::filesystem::path& path) {
  BATON_TRY(auto database, Database::open(path));
  std::unique_ptr<StateDb> state(new StateDb(std::move(database)));
  BATON_CHECK_CTX(state->create_schema(), path.string());
  BATON_CHECK_CTX(state->database_->check(), path.string());
  BATON_CHECK(state->prepare());
  return state;
}

Status StateDb::create_schema() {
  BATON_TRY(auto query, Statement::prepare(*database_, "PRAGMA user_version"));
  BATON_TRY(bool row, query.step());
  std::int64_t version = row ? query.integer(0) : 0;
  BATON_TRY(row, query.step());
  if (version == kSchema) return {};
  if (version != 0)
    return fail(ErrorCode::FailedPrecondition,
                fmt::format("the database has schema {}, this version of baton knows {}", version,
                            kSchema));
  BATON_TRY(auto transaction, Transaction::begin(*database_));
  BATON_CHECK(database_->execute(kSchemaSql));
  BATON_CHECK(database_->execute(fmt::format("PRAGMA user_version = {}", kSchema)));
  return transaction.commit();
}

Status StateDb::prepare() {
  const std::pair<std::optional<Statement>*, const char*> statements[] = {
      {&put_spec_,
       "INSERT OR REPLACE INTO jobs(id, record, submitted_wall_ms, ended_wall_ms, next_checkpoint, "
       "spec) "
       "VALUES(?, ?, ?, ?, ?, ?)"},
      {&put_job_,
       "UPDATE jobs SET record = ?2, submitted_wall_ms = ?3, ended_wall_ms = ?4, "
       "next_checkpoint = ?5 WHERE id = ?1"},
      {&drop_job_, "DELETE FROM jobs WHERE id = ?"},
      {&drop_checkpoints_, "DELETE FROM checkpoints WHERE job = ?"},
      {&drop_moves_, "DELETE FROM moves WHERE job = ?"},
      {&put_node_, "INSERT OR REPLACE INTO nodes(name, record, facts) VALUES(?, ?, ?)"},
      {&put_checkpoint_, "INSERT OR REPLACE INTO checkpoints(job, number, info) VALUES(?, ?, ?)"},
      {&drop_checkpoint_, "DELETE FROM checkpoints WHERE job = ? AND number = ?"},
      {&put_move_, "INSERT INTO moves(job, timing) VALUES(?, ?)"},
      {&trim_moves_,
       "DELETE FROM moves WHERE job = ?1 AND sequence <= (SELECT sequence FROM moves WHERE job = "
       "?1 ORDER BY sequence DESC LIMIT 1 OFFSET ?2)"},
      {&put_event_, "INSERT OR REPLACE INTO events(sequence, event) VALUES(?, ?)"},
      {&trim_events_, "DELETE FROM events WHERE sequence <= ?"},
      {&put_counter_, "INSERT OR REPLACE INTO counters(name, value) VALUES(?, ?)"},
  };
  for (const auto& [statement, sql] : statements) {
    BATON_TRY(*statement, Statement::prepare(*database_, sql));
  }
  return {};
}

Status StateDb::load_jobs(Loaded& loaded) {
  BATON_TRY(auto query, Statement::prepare(*database_,
                                           "SELECT record, spec, submitted_wall_ms, ended_wall_ms, "
                                           "next_checkpoint FROM jobs ORDER BY id"));
  for (;;) {
    BATON_TRY(bool row, query.step());
    if (!row) return {};
    JobRow job;
    BATON_TRY(job.record, decode_job_record(query.bytes(0)));
    BATON_CHECK(parse(job.spec, query.bytes(1), "job's spec"));
    job.submitted_wall_ms = query.integer(2);
    job.ended_wall_ms = query.integer(3);
    job.next_checkpoint = query.number(4);
    loaded.jobs.push_back(std::move(job));
  }
}

Status StateDb::load_rest(Loaded& loaded) {
  auto each = [&](const char* sql, auto&& take) -> Status {
    BATON_TRY(auto query, Statement::prepare(*database_, sql));
    for (;;) {
      BATON_TRY(bool row, query.step());
      if (!row) return {};
      BATON_CHECK(take(query));
    }
  };
  BATON_CHECK(each("SELECT record, facts FROM nodes ORDER BY name", [&](auto& row) -> Status {
    NodeRow node;
    BATON_TRY(node.record, decode_node_record(row.bytes(0)));
    BATON_CHECK(parse(node.facts, row.bytes(1), "node's description"));
    loaded.nodes.push_back(std::move(node));
    return {};
  }));
  BATON_CHECK(
      each("SELECT job, info FROM checkpoints ORDER BY job, number", [&](auto& row) -> Status {
        CheckpointRow checkpoint{JobId(row.number(0)), {}};
        BATON_CHECK(parse(checkpoint.info, row.bytes(1), "checkpoint's description"));
        loaded.checkpoints.push_back(std::move(checkpoint));
        return {};
      }));
  BATON_CHECK(each("SELECT job, timing FROM moves ORDER BY sequence", [&](auto& row) -> Status {
    loaded.moves.emplace_back(JobId(row.number(0)), v1::Timing());
    return parse(loaded.moves.back().second, row.bytes(1), "move");
  }));
  BATON_CHECK(each("SELECT event FROM events ORDER BY sequence", [&](auto& row) -> Status {
    return parse(loaded.events.emplace_back(), row.bytes(0), "event");
  }));
  return each("SELECT value FROM counters WHERE name = 'next_job_id'", [&](auto& row) -> Status {
    loaded.next_job_id = row.number(0);
    return {};
  });
}

Result<Loaded> StateDb::load() {
  Loaded loaded;
  BATON_CHECK(load_jobs(loaded));
  BATON_CHECK(load_rest(loaded));
  return loaded;
}

Status StateDb::save_jobs(const Changes& changes) {
  for (const auto& job : changes.jobs) {
    Statement& put = job.spec ? *put_spec_ : *put_job_;
    put.bind(1, job.id.value).bind_text(2, job.record);
    put.bind(3, job.submitted_wall_ms).bind(4, job.ended_wall_ms).bind(5, job.next_checkpoint);
    if (job.spec) put.bind_blob(6, *job.spec);
    BATON_CHECK(put.run());
  }
  for (const auto& node : changes.nodes)
    BATON_CHECK(put_node_->bind_text(1, node.id.value)
                    .bind_text(2, node.record)
                    .bind_blob(3, node.facts)
                    .run());
  if (changes.next_job_id)
    BATON_CHECK(put_counter_->bind_text(1, "next_job_id").bind(2, *changes.next_job_id).run());
  return {};
}

Status StateDb::save_checkpoints(const Changes& changes) {
  for (const auto& [job, info] : changes.checkpoints)
    BATON_CHECK(put_checkpoint_->bind(1, job.value)
                    .bind(2, info.number())
                    .bind_blob(3, info.SerializeAsString())
                    .run());
  for (const auto& [job, number] : changes.removed_checkpoints)
    BATON_CHECK(drop_checkpoint_->bind(1, job.value).bind(2, number.value).run());
  return {};
}

Status StateDb::save_history(const Changes& changes) {
  for (const auto& [job, timing] : changes.moves) {
    BATON_CHECK(put_move_->bind(1, job.value).bind_blob(2, timing.SerializeAsString()).run());
    BATON_CHECK(trim_moves_->bind(1, job.value)
                    .bind(2, static_cast<std::uint64_t>(kKeptMovesPerJob))
                    .run());
  }
  for (const auto& event : changes.events) {
    BATON_CHECK(
        put_event_->bind(1, event.sequence()).bind_blob(2, event.SerializeAsString()).run());
    if (event.sequence() > EventLog::kKept)
      BATON_CHECK(trim_events_->bind(1, event.sequence() - EventLog::kKept).run());
  }
  return {};
}

Status StateDb::save(const Changes& changes) {
  if (changes.empty()) return {};
  BATON_TRY(auto transaction, Transaction::begin(*database_));
  BATON_CHECK(save_jobs(changes));
  BATON_CHECK(save_checkpoints(changes));
  BATON_CHECK(save_history(changes));
  for (JobId job : changes.removed_jobs)
    for (auto* drop : {&drop_job_, &drop_checkpoints_, &drop_moves_})
      BATON_CHECK((*drop)->bind(1, job.value).run());
  return transaction.commit();
}

}  // namespace baton::control
