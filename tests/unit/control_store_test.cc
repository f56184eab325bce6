// The store of checkpoints as its users see it, over a controller and agents that are none.
#include <gmock/gmock.h>

#include <fstream>

#include "unit/control_fixture.h"

namespace baton::control {
namespace {

using fakes::FakeAgent;
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

}  // namespace
}  // namespace baton::control
