// The store of checkpoints as its users see it, over a controller and agents that are none.
#include <gmock/gmock.h>

#include <fstream>

#include "unit/control_fixture.h"

namespace baton::control {
namespace {

using fakes::FakeAgent;
using fakes::running;
using testing::ElementsAre;
using testing::HasSubstr;

class StoreServiceTest : public ControllerTest {
 protected:
  static v1::CheckpointRef at(const std::string& job, std::uint64_t number) {
    v1::CheckpointRef checkpoint;
    *checkpoint.mutable_job() = ref(job);
    checkpoint.set_number(number);
    return checkpoint;
  }
  Result<v1::Checkpoint> pin(std::uint64_t number, const std::string& name = "") {
    v1::PinRequest request;
    *request.mutable_checkpoint() = at("loop", number);
    request.set_name(name);
    return call(&v1::Store::Stub::Pin, request);
  }
  Result<v1::Checkpoint> unpin(std::uint64_t number, const std::string& name = "") {
    v1::UnpinRequest request;
    *request.mutable_checkpoint() = at("loop", number);
    request.set_name(name);
    return call(&v1::Store::Stub::Unpin, request);
  }
  std::vector<std::uint64_t> numbers(const std::string& name = "loop") {
    std::vector<std::uint64_t> result;
    for (const auto& info : checkpoints(name)) result.push_back(info.number());
    return result;
  }
  std::vector<v1::Checkpoint> checkpoints(const std::string& name = "loop") {
    auto list = call(&v1::Api::Stub::ListCheckpoints, ref(name));
    EXPECT_TRUE(list) << list.error().message();
    if (!list) return {};
    return {list->checkpoints().begin(), list->checkpoints().end()};
  }
  std::vector<v1::VerifiedCheckpoint> verify(const v1::JobRef& job, std::uint64_t number = 0) {
    v1::VerifyRequest request;
    *request.mutable_job() = job;
    request.set_number(number);
    grpc::ClientContext context;
    auto stream = store_->Verify(&context, request);
    std::vector<v1::VerifiedCheckpoint> found;
    v1::VerifiedCheckpoint verified;
    while (stream->Read(&verified)) found.push_back(verified);
    EXPECT_TRUE(stream->Finish().ok());
    return found;
  }
  std::filesystem::path folder(std::uint64_t job, std::uint64_t number) {
    return controller_->loop().stores().checkpoints.directory(JobId(job), CheckpointNumber(number));
  }
  void await_gone(const std::filesystem::path& path) {
    Status cleaned = controller_->loop().wait_cleaned({});
    EXPECT_TRUE(cleaned) << cleaned.error().message();
    EXPECT_FALSE(std::filesystem::exists(path));
  }
};

TEST_F(StoreServiceTest, APinnedCheckpointStaysUntilItsLastPinGoes) {
  FakeAgent one(address_, "node-1");
  ASSERT_OK(one.enroll());
  one.attach();
  auto id = run_on(one, spec("loop"));
  ASSERT_OK(one.upload(id, 1, 0, {{"f", "1"}}));
  ASSERT_OK(pin(1, "before-the-upgrade"));
  auto twice = pin(1);
  ASSERT_TRUE(twice) << twice.error().message();
  EXPECT_THAT(twice->pins(), ElementsAre("before-the-upgrade", "pinned"));
  for (int number = 2; number <= 5; ++number)
    ASSERT_OK(one.upload(id, 1, 0, {{"f", std::to_string(number)}}));
  EXPECT_THAT(numbers(), ElementsAre(1, 4, 5));
  restart();
  EXPECT_THAT(numbers(), ElementsAre(1, 4, 5));
  EXPECT_THAT(checkpoints()[0].pins(), ElementsAre("before-the-upgrade", "pinned"));
  EXPECT_THAT(unpin(1, "other").error().message(), HasSubstr("before-the-upgrade, pinned"));
  ASSERT_OK(unpin(1, "pinned"));
  EXPECT_THAT(numbers(), ElementsAre(1, 4, 5));
  ASSERT_OK(unpin(1));
  EXPECT_THAT(numbers(), ElementsAre(4, 5));
  await_gone(folder(id, 1));
  EXPECT_EQ(unpin(4).error().code(), ErrorCode::NotFound);
  EXPECT_EQ(pin(9).error().code(), ErrorCode::NotFound);
  EXPECT_EQ(pin(4, "a b").error().code(), ErrorCode::InvalidArgument);
  EXPECT_EQ(events("user").size(), 4u);
}

TEST_F(StoreServiceTest, HourlyOnesStayBesideTheNewest) {
  FakeAgent one(address_, "node-1");
  ASSERT_OK(one.enroll());
  one.attach();
  auto hourly = spec("loop");
  hourly.mutable_policy()->set_keep_checkpoints(1);
  hourly.mutable_policy()->set_keep_hourly(2);
  auto id = run_on(one, hourly);
  const std::int64_t hour = 3'600'000, start = 500'000 * hour;
  for (std::int64_t time : {start, start + 1, start + hour, start + 5 * hour, start + 5 * hour + 1})
    ASSERT_OK(one.upload(id, 1, 0, {{"f", "x"}}, false, time));
  EXPECT_THAT(numbers(), ElementsAre(3, 5));
}

TEST_F(StoreServiceTest, VerificationRecordsWhenAndWhatIsDamaged) {
  FakeAgent one(address_, "node-1");
  ASSERT_OK(one.enroll());
  one.attach();
  auto id = run_on(one, spec("loop"));
  ASSERT_OK(one.upload(id, 1, 0, {{"images/a", "1"}}));
  ASSERT_OK(one.upload(id, 1, 0, {{"images/a", "2"}, {"images/b", "b"}}));
  EXPECT_EQ(checkpoints()[0].verified_wall_ms(), 0);
  std::ofstream(folder(id, 2) / "images/a") << "x";
  std::filesystem::remove(folder(id, 2) / "images/b");
  auto found = verify(ref("loop"));
  ASSERT_EQ(found.size(), 2u);
  EXPECT_EQ(found[0].damage_size(), 0);
  EXPECT_THAT(found[1].damage(),
              ElementsAre("images/a: its checksum is wrong", "images/b: missing"));
  restart();
  EXPECT_GT(checkpoints()[0].verified_wall_ms(), 0);
  EXPECT_EQ(checkpoints()[1].damage_size(), 2);
  EXPECT_EQ(events("checkpoint-damaged").size(), 1u);
  // A damaged one is not what retention keeps: the good one before it stays.
  {
    FakeAgent again(address_, "node-1");
    ASSERT_OK(again.enroll({running(id, 1)}));
    again.attach();
    ASSERT_OK(again.upload(id, 1, 0, {{"images/a", "3"}}));
  }
  EXPECT_THAT(numbers(), ElementsAre(1, 2, 3));
  // It is whole again.
  std::ofstream(folder(id, 2) / "images/a") << "2";
  std::ofstream(folder(id, 2) / "images/b") << "b";
  EXPECT_EQ(verify(ref("loop"), 2).at(0).damage_size(), 0);
  EXPECT_EQ(checkpoints()[1].damage_size(), 0);
}

TEST_F(StoreServiceTest, TheScrubberVerifiesWholeCheckpoints) {
  FakeAgent one(address_, "node-1");
  ASSERT_OK(one.enroll());
  one.attach();
  auto id = run_on(one, spec("loop"));
  const std::string pack = "packs/" + store::hash_bytes("pages");
  ASSERT_OK(one.upload(id, 1, 0, {{pack, "pages"}, {"images/a", "1"}}));
  ASSERT_OK(one.upload(id, 1, 0, {{pack, "pages"}, {"images/a", "2"}}));
  std::ofstream(folder(id, 1) / "images/a") << "x";
  // This link is not to the shared file any more, and reading that says nothing of it.
  std::filesystem::remove(folder(id, 2) / pack);
  std::ofstream(folder(id, 2) / pack) << "pagez";
  Scrubber(controller_->loop()).pass({});
  EXPECT_THAT(checkpoints()[0].damage(), ElementsAre("images/a: its checksum is wrong"));
  EXPECT_THAT(checkpoints()[1].damage(), ElementsAre(pack + ": its checksum is wrong"));
  EXPECT_GT(checkpoints()[1].verified_wall_ms(), 0);
}

TEST_F(StoreServiceTest, CollectionFreesWhatNobodyNeedsAndNothingElse) {
  FakeAgent one(address_, "node-1");
  ASSERT_OK(one.enroll());
  one.attach();
  auto id = run_on(one, spec("loop"));
  ASSERT_OK(one.upload(id, 1, 0, {{"packs/" + store::hash_bytes("pages"), "pages"}}));
  auto stats = call(&v1::Store::Stub::Stats, v1::Empty());
  ASSERT_TRUE(stats) << stats.error().message();
  EXPECT_EQ(stats->checkpoints(), 1u);
  EXPECT_GT(stats->free_bytes(), 0u);
  EXPECT_EQ(call(&v1::Store::Stub::Orphans, v1::Empty())->orphans_size(), 0);
  EXPECT_EQ(call(&v1::Store::Stub::Collect, v1::Empty())->freed_bytes(), 0u);

  const auto root = directory_.path();
  std::filesystem::create_directories(root / "checkpoints/99/3");
  std::ofstream(root / "checkpoints/99/3/a") << "123";
  std::filesystem::create_directories(root / "checkpoints/notes");
  std::ofstream(root / "shared" / std::string(32, 'b')) << "12345";
  EXPECT_EQ(call(&v1::Store::Stub::Orphans, v1::Empty())->orphans_size(), 3);
  auto collected = call(&v1::Store::Stub::Collect, v1::Empty());
  ASSERT_TRUE(collected) << collected.error().message();
  EXPECT_EQ(collected->orphans_size(), 2);
  EXPECT_EQ(collected->freed_bytes(), 8u);
  EXPECT_FALSE(std::filesystem::exists(root / "checkpoints/99"));
  EXPECT_TRUE(std::filesystem::exists(root / "checkpoints/notes"));
  EXPECT_THAT(numbers(), ElementsAre(1));
  ASSERT_EQ(verify(ref("loop")).at(0).damage_size(), 0);
}

class ArchiveTest : public StoreServiceTest {
 protected:
  void SetUp() override {
    StoreServiceTest::SetUp();
    one_ = std::make_unique<FakeAgent>(address_, "node-1");
    ASSERT_OK(one_->enroll());
    one_->attach();
    auto wanted = spec("loop", "node-1");
    (*wanted.mutable_env())["GREETING"] = "hello";
    wanted.set_stdin_data(std::string("in\0put", 6));
    id_ = run_on(*one_, wanted);
    ASSERT_EQ(*one_->ship(id_, 1, 0, "safe\nnot yet\n"), 13u);
    ASSERT_OK(one_->upload(id_, 1, 5, files_));
  }
  void TearDown() override { one_.reset(); }

  Result<std::string> export_of(std::uint64_t number = 0) {
    const auto checkpoint = at("loop", number);
    grpc::ClientContext context;
    auto stream = store_->Export(&context, checkpoint);
    std::string bytes;
    v1::ExportPart part;
    while (stream->Read(&part)) bytes += part.data();
    BATON_CHECK(wire::check(stream->Finish()));
    return bytes;
  }
  Result<v1::Job> import_of(const std::string& bytes, const std::string& name) {
    grpc::ClientContext context;
    v1::Job job;
    auto stream = store_->Import(&context, &job);
    v1::ImportPart part;
    part.set_name(name);
    bool open = stream->Write(part);
    for (std::size_t at = 0; open && at < bytes.size(); at += 1'000) {
      part.set_data(bytes.substr(at, 1'000));
      open = stream->Write(part);
    }
    stream->WritesDone();
    BATON_CHECK(wire::check(stream->Finish()));
    return job;
  }
  // Nothing is left of an import that failed.
  void expect_nothing_imported() {
    EXPECT_TRUE(std::filesystem::is_empty(directory_.path() / "checkpoints/.incoming"));
    auto stored = controller_->loop().stores().checkpoints.list();
    EXPECT_EQ(stored->size(), 1u);
    EXPECT_EQ(controller_->loop().stores().logs.list()->size(), 1u);
    EXPECT_EQ(call(&v1::Store::Stub::Orphans, v1::Empty())->orphans_size(), 0);
  }

  const Files files_ = {{"packs/" + store::hash_bytes("pages"), "pages"},
                        {"images/core-2.img", std::string(5'000, 'x')},
                        {"checkpoint.json", "{}"}};
  std::unique_ptr<FakeAgent> one_;
  std::uint64_t id_ = 0;
};

TEST_F(ArchiveTest, AnImportedJobStandsStoppedAndGoesOnFromItsCheckpoint) {
  auto bytes = export_of(1);
  ASSERT_TRUE(bytes) << bytes.error().message();
  auto imported = import_of(*bytes, "copy");
  ASSERT_TRUE(imported) << imported.error().message();
  EXPECT_NE(imported->id(), id_);
  restart();
  EXPECT_EQ(job("copy").state(), v1::JOB_STOPPED);
  EXPECT_EQ(job("copy").spec().env().at("GREETING"), "hello");
  EXPECT_EQ(job("copy").spec().node(), "");
  EXPECT_EQ(logs("copy", true), "safe\n");
  ASSERT_EQ(checkpoints("copy").size(), 1u);
  EXPECT_EQ(checkpoints("copy")[0].cause(), "import");
  EXPECT_GT(checkpoints("copy")[0].verified_wall_ms(), 0);

  FakeAgent two(address_, "node-2");
  ASSERT_OK(two.enroll());
  two.attach();
  auto restored = std::async(std::launch::async, [&] {
    v1::RestoreRequest request;
    *request.mutable_job() = ref("copy");
    request.set_to("node-2");
    return call(&v1::Api::Stub::Restore, request);
  });
  auto order = two.next_order();
  ASSERT_TRUE(order.has_restore()) << order.ShortDebugString();
  EXPECT_EQ(order.restore().spec().stdin_data(), std::string("in\0put", 6));
  auto files = two.download(imported->id(), 1, order.restore().checkpoint());
  ASSERT_TRUE(files) << files.error().message();
  EXPECT_EQ(*files, files_);
  EXPECT_EQ(*two.ship(imported->id(), 1, 5, "on\n"), 8u);
  two.answer(order);
  auto reply = restored.get();
  ASSERT_TRUE(reply) << reply.error().message();
  EXPECT_TRUE(reply->timing().ok()) << reply->timing().error();
  await_state("copy", v1::JOB_RUNNING);
  EXPECT_TRUE(job("copy").is_protected());
  EXPECT_EQ(logs("copy"), "safe\non\n");
}

TEST_F(ArchiveTest, ABadArchiveLeavesNothing) {
  const std::string bytes = *export_of();
  EXPECT_EQ(import_of(bytes, "").error().code(), ErrorCode::AlreadyExists);
  EXPECT_EQ(import_of(bytes, "a b").error().code(), ErrorCode::InvalidArgument);
  for (std::size_t at : {std::size_t{3}, bytes.size() / 3, bytes.size() / 2, bytes.size() - 60}) {
    std::string bad = bytes;
    bad[at] ^= 1;
    EXPECT_FALSE(import_of(bad, "copy")) << at;
  }
  for (std::size_t size : {std::size_t{0}, std::size_t{20}, bytes.size() / 2, bytes.size() - 1})
    EXPECT_FALSE(import_of(bytes.substr(0, size), "copy")) << size;
  EXPECT_FALSE(import_of(bytes + "x", "copy"));
  expect_nothing_imported();
  ASSERT_OK(import_of(bytes, "copy"));
}

TEST_F(ArchiveTest, ADamagedCheckpointIsNotExported) {
  std::ofstream(folder(id_, 1) / "images/core-2.img") << "y";
  auto bytes = export_of(1);
  ASSERT_FALSE(bytes);
  EXPECT_EQ(bytes.error().code(), ErrorCode::Damaged);
  EXPECT_THAT(bytes.error().message(), HasSubstr("images/core-2.img"));
}

}  // namespace
}  // namespace baton::control
