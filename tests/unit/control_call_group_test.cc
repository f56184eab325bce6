// How many calls somebody may have under way.
#include <gmock/gmock.h>

#include "control/blocking_call.h"

namespace baton::control {
namespace {

using testing::HasSubstr;

void enter_times(CallGroup& group, const std::string& who, int times) {
  for (int i = 0; i < times; ++i) ASSERT_TRUE(group.enter(who));
}

TEST(CallGroupTest, WhoTakesTooManyLeavesSomeToOthers) {
  CallGroup group;
  enter_times(group, "user alice", CallGroup::kMostThreadsOfOne);
  const Status refused = group.enter("user alice");
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), ErrorCode::FailedPrecondition);
  EXPECT_THAT(refused.error().message(), HasSubstr("user alice has"));
  EXPECT_TRUE(group.enter("user bob"));
  group.leave("user alice");
  EXPECT_TRUE(group.enter("user alice"));
  EXPECT_FALSE(group.enter("user alice"));
}

TEST(CallGroupTest, ManyTogetherLeaveSomeToRoot) {
  CallGroup group;
  for (int who = 0; who < CallGroup::kMostThreads / CallGroup::kMostThreadsOfOne; ++who)
    enter_times(group, "user-" + std::to_string(who), CallGroup::kMostThreadsOfOne);
  const Status refused = group.enter("user bob");
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message(), HasSubstr("try again later"));
  enter_times(group, "", 10);
  group.leave("user-1");
  EXPECT_FALSE(group.enter("user bob")) << "root's count, too";
}

TEST(CallGroupTest, NobodyEntersWhenItStops) {
  CallGroup group;
  ASSERT_TRUE(group.enter("user alice"));
  group.request_stop();
  EXPECT_FALSE(group.enter("user alice"));
  EXPECT_FALSE(group.enter(""));
  EXPECT_FALSE(group.enter());
  group.leave("user alice");
  group.wait_idle();
}

}  // namespace
}  // namespace baton::control
