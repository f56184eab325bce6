// What is put together again when state.db is lost; without a controller.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "control/convert.h"
#include "control/rebuild.h"
#include "control/record_codec.h"
#include "core/events.h"
#include "fakes/temp_dir.h"
#include "store/upload.h"

namespace baton::control {
namespace {

using testing::HasSubstr;

constexpr std::int64_t kNow = 1'800'000'000'000;

v1::JobSpec spec(const std::string& name) {
  v1::JobSpec spec;
  spec.set_name(name);
  spec.add_argv("/bin/true");
  spec.set_restart(v1::RESTART_CHECKPOINT);
  spec.set_owner("alice");
  return spec;
}

v1::Checkpoint checkpoint(std::uint64_t number, std::uint64_t generation,
                          const std::string& name = "") {
  v1::Checkpoint checkpoint;
  checkpoint.set_number(number);
  checkpoint.set_generation(generation);
  checkpoint.set_output_bytes(number * 10);
  checkpoint.set_taken_wall_ms(kNow - 1'000);
  if (!name.empty()) *checkpoint.mutable_spec() = spec(name);
  return checkpoint;
}

v1::Incarnation incarnation(std::uint64_t job, std::uint64_t generation,
                            v1::IncarnationState state = v1::INCARNATION_RUNNING,
                            const std::string& name = "") {
  v1::Incarnation incarnation;
  incarnation.set_job_id(job);
  incarnation.set_generation(generation);
  incarnation.set_state(state);
  if (!name.empty()) *incarnation.mutable_spec() = spec(name);
  return incarnation;
}

struct Built {
  Changes changes;
  std::map<std::uint64_t, core::JobRecord> jobs;
  std::map<std::uint64_t, v1::JobSpec> specs;
  std::string said;
};

Built build(const Remnants& remnants,
            const std::map<std::string, std::vector<v1::Incarnation>>& nodes) {
  CensusResult census;
  for (const auto& [node, incarnations] : nodes) {
    census[node].facts.set_name(node);
    census[node].incarnations = incarnations;
  }
  Built built;
  built.changes = rebuild(remnants, census, core::Policy(), "it was on fire", kNow);
  for (const auto& job : built.changes.jobs) {
    auto record = decode_job_record(job.record);
    EXPECT_TRUE(record);
    if (record) built.jobs[job.id.value] = *record;
    EXPECT_TRUE(built.specs[job.id.value].ParseFromString(*job.spec));
  }
  for (const auto& event : built.changes.events) {
    EXPECT_EQ(event.kind(), core::event::kRecordsLost);
    EXPECT_GT(event.sequence(), 1'000'000'000u);
    built.said += event.text() + "\n";
  }
  return built;
}

TEST(Rebuild, AJobRunsWhereItsNodeSays) {
  auto built = build({{JobId(7), {checkpoint(3, 2, "loop"), checkpoint(4, 2, "loop")}}},
                     {{"node-1", {}}, {"node-2", {incarnation(7, 4)}}});
  const core::JobRecord& job = built.jobs.at(7);
  EXPECT_EQ(job.name, "loop");
  EXPECT_EQ(job.state, core::JobState::Running);
  EXPECT_EQ(job.restart, core::RestartPolicy::Checkpoint);
  ASSERT_TRUE(job.current);
  EXPECT_EQ(job.current->node, NodeId("node-2"));
  EXPECT_EQ(job.current->generation, Generation(4));
  EXPECT_EQ(job.output_generation, Generation(4));
  EXPECT_EQ(job.next_generation, Generation(4 + kUnseenNumbers));
  EXPECT_FALSE(job.attempt);
  EXPECT_TRUE(job.is_protected);
  EXPECT_EQ(built.specs.at(7).owner(), "alice");
  EXPECT_EQ(built.changes.jobs[0].next_checkpoint, 5u);
  EXPECT_EQ(built.changes.next_job_id, 7 + kUnseenNumbers);
  EXPECT_EQ(built.changes.nodes.size(), 2u);
  ASSERT_EQ(built.changes.checkpoints.size(), 2u);
  EXPECT_EQ(built.changes.checkpoints[0].info.pins(0), kFoundPin);
  EXPECT_FALSE(built.changes.checkpoints[0].info.has_spec());
  EXPECT_THAT(built.said, HasSubstr("loop: its record was lost; it runs on node-2"));
  EXPECT_THAT(built.said, HasSubstr("it was on fire"));
}

TEST(Rebuild, WhatRunsNowhereIsLeftToPeople) {
  auto built = build({{JobId(2), {checkpoint(1, 9, "ended")}}, {JobId(3), {}}}, {});
  for (std::uint64_t id : {2, 3}) {
    EXPECT_EQ(built.jobs.at(id).state, core::JobState::Stopped);
    EXPECT_FALSE(built.jobs.at(id).current);
    EXPECT_FALSE(built.jobs.at(id).attempt);
  }
  EXPECT_EQ(built.jobs.at(2).next_generation, Generation(9 + kUnseenNumbers));
  EXPECT_EQ(built.jobs.at(3).name, "job-3");
  EXPECT_THAT(built.said, HasSubstr("`baton restore ended` has it go on"));
  EXPECT_THAT(built.said, HasSubstr("job-3: its record was lost; it runs nowhere, and what it "
                                    "printed is all that is left. Its name, command, volumes and "
                                    "policy are not known"));
  EXPECT_THAT(built.said, HasSubstr("Jobs that run: none. That do not, and may have ended: ended, "
                                    "job-3."));
}

TEST(Rebuild, WithoutACheckpointTheNodeDescribesTheJob) {
  auto built = build({}, {{"node-1", {incarnation(5, 1, v1::INCARNATION_RUNNING, "fresh")}}});
  EXPECT_EQ(built.jobs.at(5).name, "fresh");
  EXPECT_FALSE(built.jobs.at(5).is_protected);
  // Where both are, the store's: a node could say anything.
  built = build({{JobId(5), {checkpoint(1, 1, "mine")}}},
                {{"node-1", {incarnation(5, 1, v1::INCARNATION_RUNNING, "theirs")}}});
  EXPECT_EQ(built.jobs.at(5).name, "mine");
}

TEST(Rebuild, AMoveUnderWayStaysOne) {
  auto built = build({{JobId(1), {checkpoint(1, 1, "a"), checkpoint(2, 1, "a")}}},
                     {{"from", {incarnation(1, 1, v1::INCARNATION_HELD)}},
                      {"to", {incarnation(1, 2, v1::INCARNATION_STARTING)}}});
  const core::JobRecord& job = built.jobs.at(1);
  ASSERT_TRUE(job.current && job.attempt);
  EXPECT_EQ(job.current->state, core::IncarnationState::Held);
  EXPECT_EQ(job.current->node, NodeId("from"));
  EXPECT_EQ(job.attempt->node, NodeId("to"));
  EXPECT_EQ(job.attempt->from, CheckpointNumber(2));
  EXPECT_EQ(job.output_generation, Generation(2));
  EXPECT_EQ(job.output_floor, 20u);
}

TEST(Rebuild, OfSeveralTheNewestThatRunsStays) {
  auto built = build({}, {{"a", {incarnation(1, 1, v1::INCARNATION_HELD, "j")}},
                          {"b", {incarnation(1, 2, v1::INCARNATION_RUNNING, "j")}},
                          {"c", {incarnation(1, 3, v1::INCARNATION_STARTING, "j")}}});
  const core::JobRecord& job = built.jobs.at(1);
  ASSERT_TRUE(job.current);
  EXPECT_EQ(job.current->node, NodeId("b"));
  EXPECT_FALSE(job.attempt) << "beside one that runs none may start";
  EXPECT_EQ(job.next_generation, Generation(3 + kUnseenNumbers));
}

TEST(Rebuild, AFirstStartAndARecoveryAreToldApart) {
  auto built = build({{JobId(2), {checkpoint(1, 1, "again")}}},
                     {{"a",
                       {incarnation(1, 1, v1::INCARNATION_STARTING, "first"),
                        incarnation(2, 2, v1::INCARNATION_STARTING)}}});
  EXPECT_EQ(built.jobs.at(1).state, core::JobState::Starting);
  EXPECT_EQ(built.jobs.at(1).attempt->from, CheckpointNumber(0));
  EXPECT_EQ(built.jobs.at(2).state, core::JobState::Recovering);
  EXPECT_EQ(built.jobs.at(2).attempt->from, CheckpointNumber(1));
}

TEST(Rebuild, NamesStayUnique) {
  auto built =
      build({{JobId(1), {checkpoint(1, 1, "twin")}}, {JobId(2), {checkpoint(1, 1, "twin")}}}, {});
  EXPECT_EQ(built.jobs.at(1).name, "twin");
  EXPECT_EQ(built.jobs.at(2).name, "twin-2");
}

TEST(Rebuild, TheStoreKeepsTheDescriptionAndALongInputStopsRestarts) {
  v1::JobSpec full = spec("x");
  full.set_stdin_data("short");
  auto back = from_store_json(to_store_json(checkpoint(1, 1), full));
  ASSERT_TRUE(back);
  EXPECT_EQ(back->spec().SerializeAsString(), full.SerializeAsString());
  full.set_stdin_data(std::string(1 << 20, 'x'));
  back = from_store_json(to_store_json(checkpoint(1, 1), full));
  ASSERT_TRUE(back);
  EXPECT_EQ(back->spec().stdin_data(), "");
  EXPECT_EQ(back->spec().restart(), v1::RESTART_NEVER);
  EXPECT_EQ(from_store_json("{").error().code(), ErrorCode::Damaged);
}

TEST(Rebuild, FindsCheckpointsReadableOrNotAndOutput) {
  fakes::TempDir folder;
  auto store = store::CheckpointStore::open(folder.path());
  auto logs = OutputLogs::open(folder.path() / "logs");
  ASSERT_TRUE(store && logs);
  for (std::uint64_t number : {1, 2}) {
    auto upload = (*store)->begin_upload(JobId(4));
    ASSERT_TRUE(upload);
    ASSERT_TRUE((*upload)->begin_file("images/core-2.img", 0, 0600));
    ASSERT_TRUE((*upload)->end_file("99aa06d3014798d86001c324468d497f"));
    ASSERT_TRUE((*upload)->publish(CheckpointNumber(number),
                                   to_store_json(checkpoint(number, 1), spec("four"))));
  }
  std::filesystem::resize_file((*store)->directory(JobId(4), CheckpointNumber(2)) / "manifest.json",
                               20);
  auto log = (*logs)->get(JobId(9));
  ASSERT_TRUE(log);
  ASSERT_TRUE((*log)->append(Generation(), 0, "text"));
  ASSERT_TRUE((*logs)->get(JobId(10)));  // empty: nothing to lose
  auto remnants = find_remnants(**store, **logs);
  ASSERT_TRUE(remnants) << remnants.error().message();
  ASSERT_EQ(remnants->size(), 2u);
  const auto& four = remnants->at(JobId(4));
  ASSERT_EQ(four.size(), 2u);
  EXPECT_EQ(four[0].spec().name(), "four");
  EXPECT_FALSE(four[0].quarantined());
  EXPECT_TRUE(four[1].quarantined());
  EXPECT_EQ(four[1].number(), 2u);
  EXPECT_TRUE(remnants->at(JobId(9)).empty());
}

}  // namespace
}  // namespace baton::control
