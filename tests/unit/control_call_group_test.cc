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
  enter_times(group, "alice", CallGroup::kMostThreadsOfOne);
  const Status refused = group.enter("alice");
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), ErrorCode::Unavailable);
  EXPECT_THAT(refused.error().message(), HasSubstr("alice has 500 calls under way"));
  EXPECT_TRUE(group.enter("bob"));
  group.leave("alice");
  EXPECT_TRUE(group.enter("alice"));
  EXPECT_FALSE(group.enter("alice"));
}

TEST(CallGroupTest, ManyTogetherLeaveSomeToRoot) {
  CallGroup group;
  for (int who = 0; who < CallGroup::kMostThreads / CallGroup::kMostThreadsOfOne; ++who)
    enter_times(group, "user-" + std::to_string(who), CallGroup::kMostThreadsOfOne);
  const Status refused = group.enter("bob");
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message(), HasSubstr("try again later"));
  enter_times(group, "", 10);
  group.leave("user-1");
  EXPECT_FALSE(group.enter("bob")) << "root's count, too";
}

TEST(CallGroupTest, NobodyEntersWhenItStops) {
  CallGroup group;
  ASSERT_TRUE(group.enter("alice"));
  group.request_stop();
  EXPECT_FALSE(group.enter("alice"));
  EXPECT_FALSE(group.enter(""));
  EXPECT_FALSE(group.enter());
  group.leave("alice");
  group.wait_idle();
}

}  // namespace
}  // namespace baton::control
