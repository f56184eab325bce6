#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/wait.h>

#include <fstream>

#include "control/record_codec.h"
#include "control/state_db.h"
#include "fakes/temp_dir.h"

namespace baton::control {
namespace {

core::JobRecord full_record() {
  core::JobRecord r;
  r.id = JobId(7);
  r.name = "loop";
  r.needs = {1 << 30, 1.5, NodeId("node-1")};
  r.restart = core::RestartPolicy::Checkpoint;
  r.restart_limit = 4;
  r.policy.cpu_threshold = 0.5;
  r.policy.keep_checkpoints = 9;
  r.policy.migrate_on_overload = false;
  r.state = core::JobState::Migrating;
  r.reason = "because of \"quotes\"\nand lines";
  r.current =
      core::IncarnationRecord{NodeId("node-1"), Generation(3), core::IncarnationState::Held};
  r.attempt = core::AttemptRecord{NodeId("node-2"), Generation(4), CheckpointNumber(2),
                                  core::Cause::CpuOverload};
  r.next_generation = Generation(5);
  r.output_generation = Generation(4);
  r.output_floor = UINT64_MAX;
  r.exit_code = -9;
  r.is_protected = true;
  r.unprotected_cause = "io_uring";
  r.preflight_failed = true;
  r.restarts = 2;
  r.failed_attempts = 1;
  r.desired_stop = true;
  r.remove_when_ended = true;
  r.last_error = "bad";
  r.last_error_log = "tail";
  return r;
}

Changes::Job job_change(const core::JobRecord& record) {
  Changes::Job job;
  job.id = record.id;
  job.record = encode_record(record);
  job.submitted_wall_ms = 11;
  job.ended_wall_ms = 12;
  job.next_checkpoint = 13;
  v1::JobSpec spec;
  spec.add_argv(std::string("a\"b\n\xff", 5));
  spec.set_stdin_data(std::string("\0x", 2));
  job.spec = spec.SerializeAsString();
  return job;
}

class StateDbTest : public testing::Test {
 protected:
  void SetUp() override { reopen(); }
  void reopen() {
    db_.reset();
    auto db = StateDb::open(path());
    ASSERT_TRUE(db) << db.error().message();
    db_ = std::move(*db);
  }
  std::filesystem::path path() const { return directory_.path() / "state.db"; }
  void save(const Changes& changes) {
    auto saved = db_->save(changes);
    ASSERT_TRUE(saved) << saved.error().message();
  }

  fakes::TempDir directory_;
  std::unique_ptr<StateDb> db_;
};

TEST_F(StateDbTest, RecordsComeBackAsTheyWere) {
  auto decoded = decode_job_record(encode_record(full_record()));
  ASSERT_TRUE(decoded) << decoded.error().message();
  EXPECT_EQ(encode_record(*decoded), encode_record(full_record()));
  EXPECT_EQ(decoded->name, "loop");
  EXPECT_EQ(decoded->reason, full_record().reason);
  EXPECT_EQ(decoded->current->state, core::IncarnationState::Held);
  EXPECT_EQ(decoded->attempt->from, CheckpointNumber(2));
  EXPECT_EQ(decoded->exit_code, -9);
  EXPECT_EQ(decoded->output_floor, UINT64_MAX);
  core::NodeRecord node;
  node.facts.id = NodeId("node-1");
  node.facts.cpus = 1.5;
  node.facts.cpu_features = {"avx", "sse2"};
  node.boot_id = "boot";
  node.draining = true;
  auto again = decode_node_record(encode_record(node));
  ASSERT_TRUE(again);
  EXPECT_EQ(encode_record(*again), encode_record(node));
  EXPECT_EQ(again->facts.cpu_features, node.facts.cpu_features);
}

TEST_F(StateDbTest, WhatIsNoRecordIsDamaged) {
  for (const char* text : {"", "{", "[]", "{}", R"({"id":"7"})", R"({"id":7,"policy":3})",
                           R"({"id":7,"current":{"generation":"x"}})"})
    EXPECT_EQ(decode_job_record(text).error().code(), ErrorCode::Damaged) << text;
}

TEST_F(StateDbTest, ReloadEqualsWhatWasSaved) {
  Changes changes;
  changes.jobs.push_back(job_change(full_record()));
  changes.next_job_id = 8;
  core::NodeRecord node;
  node.facts.id = NodeId("node-1");
  v1::NodeFacts facts;
  facts.set_kernel("6.18");
  changes.nodes.push_back({node.facts.id, encode_record(node), facts.SerializeAsString()});
  v1::Checkpoint checkpoint;
  checkpoint.set_number(2);
  checkpoint.set_output_bytes(99);
  changes.checkpoints.push_back({JobId(7), checkpoint});
  v1::Timing move;
  move.set_cause("drain");
  changes.moves.emplace_back(JobId(7), move);
  v1::Event event;
  event.set_sequence(5);
  event.set_text("hello");
  changes.events.push_back(event);
  save(changes);
  reopen();
  auto loaded = db_->load();
  ASSERT_TRUE(loaded) << loaded.error().message();
  ASSERT_EQ(loaded->jobs.size(), 1u);
  EXPECT_EQ(encode_record(loaded->jobs[0].record), encode_record(full_record()));
  EXPECT_EQ(loaded->jobs[0].spec.SerializeAsString(), *changes.jobs[0].spec);
  EXPECT_EQ(loaded->jobs[0].submitted_wall_ms, 11);
  EXPECT_EQ(loaded->jobs[0].ended_wall_ms, 12);
  EXPECT_EQ(loaded->jobs[0].next_checkpoint, 13u);
  EXPECT_EQ(loaded->next_job_id, 8u);
  ASSERT_EQ(loaded->nodes.size(), 1u);
  EXPECT_EQ(loaded->nodes[0].facts.kernel(), "6.18");
  ASSERT_EQ(loaded->checkpoints.size(), 1u);
  EXPECT_EQ(loaded->checkpoints[0].info.output_bytes(), 99u);
  ASSERT_EQ(loaded->moves.size(), 1u);
  EXPECT_EQ(loaded->moves[0].second.cause(), "drain");
  ASSERT_EQ(loaded->events.size(), 1u);
  EXPECT_EQ(loaded->events[0].sequence(), 5u);
}

TEST_F(StateDbTest, RemovingAJobRemovesAllOfIt) {
  Changes changes;
  changes.jobs.push_back(job_change(full_record()));
  v1::Checkpoint checkpoint;
  checkpoint.set_number(1);
  changes.checkpoints.push_back({JobId(7), checkpoint});
  changes.moves.emplace_back(JobId(7), v1::Timing());
  save(changes);
  Changes removal;
  removal.removed_jobs.push_back(JobId(7));
  save(removal);
  auto loaded = db_->load();
  EXPECT_TRUE(loaded->jobs.empty());
  EXPECT_TRUE(loaded->checkpoints.empty());
  EXPECT_TRUE(loaded->moves.empty());
}

TEST_F(StateDbTest, AnotherVersionsDatabaseIsLeftAlone) {
  db_.reset();
  {
    auto database = Database::open(path());
    ASSERT_TRUE(database);
    ASSERT_TRUE((*database)->execute("PRAGMA user_version = 99"));
  }
  EXPECT_EQ(StateDb::open(path()).error().code(), ErrorCode::FailedPrecondition);
}

TEST_F(StateDbTest, WhatIsNoDatabaseIsAnError) {
  db_.reset();
  std::filesystem::remove(path());
  std::ofstream(path()) << std::string(8192, 'x');
  EXPECT_EQ(StateDb::open(path()).error().code(), ErrorCode::Damaged);
}

// In a child with a mount namespace of its own, on a small disk.
TEST_F(StateDbTest, AFullDiskSavesNothingAndSaysSo) {
  if (::geteuid() != 0) GTEST_SKIP() << "mounting a small disk needs root";
  db_.reset();
  const std::string root = directory_.path();
  pid_t child = ::fork();
  if (child == 0) {
    auto expect = [](bool right, int code) {
      if (!right) ::_exit(code);
    };
    expect(::unshare(CLONE_NEWNS) == 0, 1);
    expect(::mount("", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0, 2);
    expect(::mount("tmpfs", root.c_str(), "tmpfs", 0, "size=1m") == 0, 3);
    auto db = StateDb::open(root + "/state.db");
    expect(db.has_value(), 4);
    Changes good;
    good.jobs.push_back(job_change(full_record()));
    expect((*db)->save(good).has_value(), 5);
    Changes large;
    large.jobs.push_back(job_change(full_record()));
    large.jobs[0].id = JobId(8);
    large.jobs[0].spec = std::string(4 << 20, 'x');
    auto full = (*db)->save(large);
    expect(!full && full.error().code() == ErrorCode::NoSpace, 6);
    auto loaded = (*db)->load();
    expect(loaded && loaded->jobs.size() == 1, 7);
    expect((*db)->save(good).has_value(), 8);
    ::_exit(0);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

}  // namespace
}  // namespace baton::control
