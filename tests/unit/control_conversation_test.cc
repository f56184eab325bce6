// Whole conversations between a controller and its agents, without a process being run.
#include <fstream>

#include "base/clock.h"
#include "unit/control_fixture.h"

namespace baton::control {
namespace {

using fakes::FakeAgent;
using fakes::running;

TEST_F(ControllerTest, MigrationMovesAJobWithItsOutput) {
  FakeAgent one(address_, "node-1"), two(address_, "node-2");
  ASSERT_OK(one.enroll());
  ASSERT_OK(two.enroll());
  one.attach();
  two.attach();
  auto id = run_on(one, spec("loop", "node-1"));
  ASSERT_EQ(*one.ship(id, 1, 0, "0\n1\n"), 4u);

  auto moved = migrate("loop", "node-2");
  for (int round = 1; round <= 2; ++round) {
    auto take = one.next_order();
    ASSERT_TRUE(take.has_checkpoint()) << take.ShortDebugString();
    auto taken = one.upload(id, 1, 4, {{"images/core-2.img", fmt::format("round {}", round)}});
    ASSERT_TRUE(taken) << taken.error().message();
    if (round == 1) {
      auto early = two.download(id, 0, *taken);
      ASSERT_FALSE(early) << "it was not asked to keep it yet";
      EXPECT_EQ(early.error().code(), ErrorCode::StaleGeneration);
    }
    v1::OrderResult named;
    named.set_checkpoint(*taken);
    one.answer(take, named);
    auto stage = two.next_order();
    ASSERT_TRUE(stage.has_stage()) << stage.ShortDebugString();
    EXPECT_EQ(stage.stage().checkpoint(), *taken);
    EXPECT_TRUE(two.download(id, 0, *taken));
    two.answer(stage, named);
  }
  auto freeze = one.next_order();
  ASSERT_TRUE(freeze.has_freeze()) << freeze.ShortDebugString();
  ASSERT_EQ(*one.ship(id, 1, 4, "2\n"), 6u);
  auto number = one.upload(id, 1, 6, {{"images/core-2.img", "state"}}, true);
  ASSERT_TRUE(number) << number.error().message();
  v1::OrderResult held;
  held.set_checkpoint(*number);
  one.answer(freeze, held);

  auto restore = two.next_order();
  ASSERT_TRUE(restore.has_restore()) << restore.ShortDebugString();
  EXPECT_EQ(restore.restore().generation(), 2u);
  EXPECT_EQ(restore.restore().checkpoint(), *number);
  auto files = two.download(id, 2, *number);
  ASSERT_TRUE(files) << files.error().message();
  EXPECT_EQ(files->at("images/core-2.img"), "state");
  // The target may print before its "running" has been heard.
  EXPECT_EQ(*two.ship(id, 2, 6, "3\n"), 8u);
  EXPECT_EQ(one.ship(id, 1, 8, "stale").error().code(), ErrorCode::StaleGeneration);
  two.answer(restore);

  auto release = one.next_order();
  ASSERT_TRUE(release.has_release() || release.has_kill()) << release.ShortDebugString();
  one.answer(release);
  auto reply = moved.get();
  ASSERT_TRUE(reply) << reply.error().message();
  EXPECT_TRUE(reply->timing().ok()) << reply->timing().error();
  EXPECT_EQ(reply->job().node(), "node-2");
  EXPECT_EQ(job("loop").generation(), 2u);
  EXPECT_EQ(job("loop").moves_size(), 1);

  ASSERT_OK(two.report_exit(id, 2, 7, 8));
  await_state("loop", v1::JOB_EXITED);
  EXPECT_EQ(job("loop").exit_code(), 7);
  EXPECT_EQ(logs("loop", true), "0\n1\n2\n3\n");
  EXPECT_EQ(events("move").size(), 1u);
}

// As a terminal that was stopped, or a program behind a pipe that nobody empties.
TEST_F(ControllerTest, FollowersThatReadNothingHoldNobodyUp) {
  FakeAgent agent(address_, "node-1");
  ASSERT_OK(agent.enroll());
  agent.attach();
  const auto id = run_on(agent, spec("loop"));
  struct Follower {
    explicit Follower(const std::string& address)
        : api(v1::Api::NewStub(*wire::open_channel(address))) {
      v1::LogsRequest of_loop;
      of_loop.mutable_job()->set_name_or_id("loop");
      of_loop.set_follow(true);
      of_loop.set_live(true);
      logs = api->Logs(&contexts[0], of_loop);
      v1::EventsRequest all;
      all.set_follow(true);
      events = api->Events(&contexts[1], all);
    }
    ~Follower() {
      for (auto& context : contexts) context.TryCancel();
      (void)logs->Finish();
      (void)events->Finish();
    }
    std::unique_ptr<v1::Api::Stub> api;
    grpc::ClientContext contexts[2];
    std::unique_ptr<grpc::ClientReader<v1::LogsPart>> logs;
    std::unique_ptr<grpc::ClientReader<v1::Event>> events;
  };
  std::vector<std::unique_ptr<Follower>> followers;
  for (int i = 0; i < 20; ++i) followers.push_back(std::make_unique<Follower>(address_));
  const std::string part(1 << 20, 'x');
  constexpr std::uint64_t kParts = 24;  // more than a connection takes without a reader
  for (std::uint64_t i = 0; i < kParts; ++i) {
    ASSERT_TRUE(agent.heartbeat({running(id, 1)})->renewed());
    ASSERT_EQ(*agent.ship(id, 1, i * part.size(), part), (i + 1) * part.size());
  }
  EXPECT_EQ(logs("loop").size(), kParts * part.size());
  v1::LogsPart first;
  EXPECT_TRUE(followers[0]->logs->Read(&first)) << "and it may go on when it likes";
  EXPECT_FALSE(first.data().empty());
}

TEST_F(ControllerTest, AFailedRestoreLeavesTheJobAtItsSource) {
  FakeAgent one(address_, "node-1"), two(address_, "node-2");
  ASSERT_OK(one.enroll());
  ASSERT_OK(two.enroll());
  one.attach();
  two.attach();
  auto id = run_on(one, spec("loop", "node-1"));
  auto moved = migrate("loop", "node-2");
  auto take = one.next_order();
  ASSERT_TRUE(take.has_checkpoint());
  v1::OrderResult none;
  none.set_failure(v1::FAILURE_INTERNAL);
  one.answer(take, none);  // then the move goes without
  auto freeze = one.next_order();
  ASSERT_TRUE(freeze.has_freeze());
  auto number = one.upload(id, 1, 0, {{"a", "b"}}, true);
  ASSERT_TRUE(number);
  v1::OrderResult held;
  held.set_checkpoint(*number);
  one.answer(freeze, held);
  auto restore = two.next_order();
  ASSERT_TRUE(restore.has_restore());
  v1::OrderResult failed;
  failed.set_failure(v1::FAILURE_UNFIT_NODE);
  failed.set_error("this CPU has no avx512");
  two.answer(restore, failed);
  // The target is told to end what may be left; the source runs on.
  for (bool released = false; !released;) {
    auto order = one.next_order();
    ASSERT_TRUE(order.has_release()) << order.ShortDebugString();
    EXPECT_FALSE(order.release().kill());
    released = true;
    one.answer(order);
  }
  auto reply = moved.get();
  ASSERT_TRUE(reply) << reply.error().message();
  EXPECT_FALSE(reply->timing().ok());
  EXPECT_NE(reply->timing().error().find("avx512"), std::string::npos) << reply->timing().error();
  await_state("loop", v1::JOB_RUNNING);
  EXPECT_EQ(job("loop").node(), "node-1");
  EXPECT_EQ(*one.ship(id, 1, 0, "on"), 2u);
}

class ShortLease : public ControllerTest {
  ControllerOptions options() const override {
    auto options = ControllerTest::options();
    options.lease_ms = 300;
    return options;
  }
};

TEST_F(ShortLease, ALostNodesJobComesBackFromItsNewestCheckpointAndOutputIsReplaced) {
  FakeAgent one(address_, "node-1"), two(address_, "node-2");
  ASSERT_OK(one.enroll());
  one.attach();
  auto id = run_on(one, spec("loop", "node-1"));
  ASSERT_TRUE(one.heartbeat({running(id, 1)}));
  ASSERT_EQ(*one.ship(id, 1, 0, "safe\n"), 5u);
  auto first = one.upload(id, 1, 5, {{"f", "1"}});
  ASSERT_TRUE(first) << first.error().message();
  ASSERT_EQ(*one.ship(id, 1, 5, "lost\n"), 10u);
  std::int64_t last_heard = boot_time_ms();
  ASSERT_TRUE(one.heartbeat({running(id, 1)})->renewed());
  // From now on node-1 is silent, and node-2 lives.
  ASSERT_OK(two.enroll());
  two.attach();
  std::jthread beating([&](std::stop_token stop) {
    std::mutex mutex;
    std::condition_variable_any woken;
    std::unique_lock lock(mutex);
    while (!woken.wait_for(lock, stop, std::chrono::milliseconds(50), [] { return false; }) &&
           !stop.stop_requested())
      (void)two.heartbeat();
  });
  auto restore = two.next_order();
  EXPECT_GE(boot_time_ms() - last_heard, 300);
  ASSERT_TRUE(restore.has_restore()) << restore.ShortDebugString();
  EXPECT_EQ(restore.restore().checkpoint(), *first);
  EXPECT_EQ(one.ship(id, 1, 10, "late\n").error().code(), ErrorCode::StaleGeneration);
  EXPECT_EQ(one.upload(id, 1, 10, {{"f", "late"}}).error().code(), ErrorCode::StaleGeneration);
  EXPECT_EQ(*two.ship(id, restore.restore().generation(), 5, "again\n"), 11u);
  two.answer(restore);
  await_state("loop", v1::JOB_RUNNING);
  EXPECT_EQ(logs("loop"), "safe\nagain\n");
  EXPECT_FALSE(one.heartbeat({running(id, 1)})->renewed());
}

TEST_F(ControllerTest, ADamagedCheckpointIsNamedQuarantinedAndTheOneBeforeIsTried) {
  FakeAgent one(address_, "node-1");
  ASSERT_OK(one.enroll());
  one.attach();
  auto id = run_on(one, spec("loop"));
  auto first = one.upload(id, 1, 0, {{"images/a.img", "one"}});
  auto second = one.upload(id, 1, 0, {{"images/a.img", "two"}});
  ASSERT_TRUE(first && second);
  auto damaged = directory_.path() / "checkpoints" / std::to_string(id) / std::to_string(*second) /
                 "images/a.img";
  std::filesystem::remove(damaged);
  ASSERT_OK(one.report_exit(id, 1, 1, 0));
  await_state("loop", v1::JOB_EXITED);
  auto restored = std::async(std::launch::async, [&] {
    v1::RestoreRequest request;
    *request.mutable_job() = ref("loop");
    return call(&v1::Api::Stub::Restore, request);
  });
  std::vector<std::uint64_t> tried;
  while (tried.size() < 2) {
    auto order = one.next_order();
    ASSERT_NE(order.what_case(), v1::Order::WHAT_NOT_SET);
    if (!order.has_restore()) {
      one.answer(order);
      continue;
    }
    tried.push_back(order.restore().checkpoint());
    auto files = one.download(id, order.restore().generation(), tried.back());
    v1::OrderResult result;
    if (!files) {
      EXPECT_EQ(files.error().code(), ErrorCode::Damaged);
      EXPECT_NE(files.error().message().find("images/a.img: missing"), std::string::npos);
      result.set_failure(v1::FAILURE_DAMAGED_CHECKPOINT);
      result.set_error(files.error().message());
    }
    one.answer(order, result);
  }
  EXPECT_EQ(tried, (std::vector<std::uint64_t>{*second, *first}));
  auto reply = restored.get();
  ASSERT_TRUE(reply) << reply.error().message();
  EXPECT_TRUE(reply->timing().ok()) << reply->timing().error();
  auto list = call(&v1::Api::Stub::ListCheckpoints, ref("loop"));
  ASSERT_TRUE(list);
  for (const auto& checkpoint : list->checkpoints())
    EXPECT_EQ(checkpoint.quarantined(), checkpoint.number() == *second);
}

TEST_F(ControllerTest, DamageToASharedFileIsFoundAndTheNextCheckpointBringsItAnew) {
  FakeAgent one(address_, "node-1");
  ASSERT_OK(one.enroll());
  one.attach();
  auto id = run_on(one, spec("loop"));
  const std::string content(100'000, 'x'), hash = store::hash_bytes(content);
  const std::string name = "packs/" + hash;
  ASSERT_OK(one.upload(id, 1, 0, {{name, content}}));
  ASSERT_OK(one.upload(id, 1, 0, {{name, content}, {"images/a.img", "two"}}));
  auto shared = directory_.path() / "shared" / hash;
  auto& checkpoints = controller_->loop().stores().checkpoints;
  Scrubber scrubber(controller_->loop());
  scrubber.pass({});
  EXPECT_TRUE(checkpoints.missing_shared_files(JobId(id), {hash}).empty());
  EXPECT_EQ(events("damage").size(), 0u);
  std::fstream(shared, std::ios::in | std::ios::out).seekp(500) << "y";
  scrubber.pass({});
  EXPECT_EQ(checkpoints.missing_shared_files(JobId(id), {hash}).size(), 1u);
  controller_->loop().wait({}, boot_time_ms() + 10'000,
                           [&](Loop::Locked&) { return events("damage").size() == 1; });
  ASSERT_EQ(events("damage").size(), 1u);
  EXPECT_NE(events("damage")[0].text().find("checkpoints (1)"), std::string::npos)
      << events("damage")[0].text();
  ASSERT_OK(one.upload(id, 1, 0, {{name, content}}));
  EXPECT_TRUE(checkpoints.missing_shared_files(JobId(id), {hash}).empty());
  ASSERT_OK(checkpoints.verify(JobId(id), CheckpointNumber(3)));
}

TEST_F(ControllerTest, OldCheckpointsGoAndNumbersAreNeverUsedAgain) {
  FakeAgent one(address_, "node-1");
  ASSERT_OK(one.enroll());
  one.attach();
  auto id = run_on(one, spec("loop"));
  for (std::uint64_t number = 1; number <= 4; ++number)
    ASSERT_EQ(*one.upload(id, 1, 0, {{"f", std::to_string(number)}}), number);
  auto list = call(&v1::Api::Stub::ListCheckpoints, ref("loop"));
  ASSERT_EQ(list->checkpoints_size(), 2);
  EXPECT_EQ(list->checkpoints(0).number(), 3u);
  EXPECT_EQ(list->checkpoints(1).number(), 4u);
}

TEST_F(ControllerTest, ARestartedControllerKnowsEverythingAndAdopts) {
  std::uint64_t id = 0;
  {
    FakeAgent one(address_, "node-1");
    ASSERT_OK(one.enroll());
    one.attach();
    id = run_on(one, spec("loop"));
    await_state("loop", v1::JOB_RUNNING);
    ASSERT_EQ(*one.ship(id, 1, 0, "before\n"), 7u);
    ASSERT_OK(one.upload(id, 1, 7, {{"f", "x"}}));
  }
  auto before = job("loop");
  restart();
  EXPECT_EQ(job("loop").spec().SerializeAsString(), before.spec().SerializeAsString());
  EXPECT_EQ(job("loop").state(), v1::JOB_RUNNING);
  EXPECT_EQ(job("loop").newest_checkpoint(), 1u);
  FakeAgent one(address_, "node-1");
  EXPECT_FALSE(one.heartbeat({running(id, 1)})->renewed());
  auto registered = one.enroll({running(id, 1)});
  ASSERT_TRUE(registered);
  EXPECT_EQ(registered->kill_size(), 0);
  one.attach();
  EXPECT_EQ(*one.ship(id, 1, 7, "after\n"), 13u);
  EXPECT_EQ(*one.upload(id, 1, 13, {{"f", "y"}}), 2u);
  ASSERT_OK(one.report_exit(id, 1, 0, 13));
  await_state("loop", v1::JOB_EXITED);
  EXPECT_EQ(logs("loop"), "before\nafter\n");
  // A new job gets a new number.
  EXPECT_GT(run_on(one, spec("next")), id);
}

TEST_F(ControllerTest, OrdersWithoutAResultComeAgainOnANewStreamOfTheSameEpochOnly) {
  FakeAgent one(address_, "node-1");
  ASSERT_OK(one.enroll());
  one.attach();
  ASSERT_OK(run(spec("loop")));
  auto start = one.next_order();
  ASSERT_TRUE(start.has_start());
  one.detach();
  one.attach();
  auto again = one.next_order();
  EXPECT_EQ(again.order_id(), start.order_id());
  FakeAgent other(address_, "node-1", "epoch-2");
  grpc::ClientContext context;
  auto stream = other.stub().Attach(&context);
  v1::AgentMessage hello;
  hello.mutable_hello()->set_node("node-1");
  hello.mutable_hello()->set_agent_epoch("epoch-2");
  stream->Write(hello);
  v1::Order order;
  EXPECT_FALSE(stream->Read(&order));
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::FAILED_PRECONDITION);
}

TEST_F(ControllerTest, RemovingAJobRemovesItsCheckpointsAndOutput) {
  FakeAgent one(address_, "node-1");
  ASSERT_OK(one.enroll());
  one.attach();
  auto id = run_on(one, spec("loop"));
  ASSERT_OK(one.upload(id, 1, 0, {{"f", "x"}}));
  EXPECT_EQ(call(&v1::Api::Stub::Remove, ref("loop")).error().code(),
            ErrorCode::FailedPrecondition);
  ASSERT_OK(one.report_exit(id, 1, 0, 0));
  await_state("loop", v1::JOB_EXITED);
  ASSERT_OK(call(&v1::Api::Stub::Remove, ref("loop")));
  EXPECT_EQ(call(&v1::Api::Stub::GetJob, ref("loop")).error().code(), ErrorCode::NotFound);
  restart();
  EXPECT_FALSE(std::filesystem::exists(directory_.path() / "checkpoints" / std::to_string(id)));
  EXPECT_FALSE(std::filesystem::exists(directory_.path() / "logs" / fmt::format("{}.log", id)));
}

TEST_F(ControllerTest, StopsQuicklyWithFollowersWaitersAndHalfAnUpload) {
  FakeAgent one(address_, "node-1");
  ASSERT_OK(one.enroll());
  one.attach();
  auto id = run_on(one, spec("loop"));
  grpc::ClientContext upload_context;
  v1::UploadReply upload_reply;
  auto upload = one.stub().UploadCheckpoint(&upload_context, &upload_reply);
  v1::UploadPart part;
  part.mutable_header()->set_job_id(id);
  part.mutable_header()->set_generation(1);
  ASSERT_TRUE(upload->Write(part));
  auto waiter = std::async(std::launch::async, [&] {
    v1::WaitRequest request;
    *request.mutable_job() = ref("loop");
    return call(&v1::Api::Stub::Wait, request);
  });
  grpc::ClientContext follow_context;
  v1::EventsRequest follow;
  follow.set_follow(true);
  auto follower = api_->Events(&follow_context, follow);
  v1::Event event;
  ASSERT_TRUE(follower->Read(&event));
  std::int64_t begin = boot_time_ms();
  controller_.reset();
  EXPECT_LT(boot_time_ms() - begin, 3'000);
  EXPECT_EQ(waiter.get().error().code(), ErrorCode::Unavailable);
  while (follower->Read(&event)) {
  }
  EXPECT_FALSE(follower->Finish().ok());
  upload->WritesDone();
  EXPECT_FALSE(upload->Finish().ok());
}

TEST_F(ControllerTest, OneProcessPerDataDirectory) {
  ControllerOptions options = this->options();
  options.data = directory_.path();
  options.listen = {"127.0.0.1:0"};
  auto second = Controller::start(options);
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code(), ErrorCode::FailedPrecondition);
}

}  // namespace
}  // namespace baton::control
