#include <gtest/gtest.h>

#include <future>

#include "control/output_log.h"
#include "fakes/temp_dir.h"

namespace baton::control {
namespace {

class OutputLogTest : public testing::Test {
 protected:
  void SetUp() override { reopen(); }
  void reopen() {
    log_.reset();
    logs_ = std::move(*OutputLogs::open(directory_.path()));
    log_ = *logs_->get(JobId(1));
    log_->set_writer(Generation(1));
  }
  std::uint64_t append(std::uint64_t offset, std::string_view data, std::uint64_t generation = 1) {
    auto next = log_->append(Generation(generation), offset, data);
    EXPECT_TRUE(next) << next.error().message();
    return next ? *next : 0;
  }
  std::string all() { return log_->read(0, 1 << 20)->data; }

  fakes::TempDir directory_;
  std::unique_ptr<OutputLogs> logs_;
  std::shared_ptr<OutputLog> log_;
};

TEST_F(OutputLogTest, BytesComeOnceAndWithoutGaps) {
  EXPECT_EQ(append(0, "abc"), 3u);
  EXPECT_EQ(append(0, "abc"), 3u);   // sent again
  EXPECT_EQ(append(1, "bcde"), 5u);  // partly new
  EXPECT_EQ(append(9, "gap"), 5u);   // something is missing before it
  EXPECT_EQ(append(5, ""), 5u);      // only asks
  EXPECT_EQ(append(5, "f"), 6u);
  EXPECT_EQ(all(), "abcdef");
  reopen();
  EXPECT_EQ(all(), "abcdef");
  EXPECT_EQ(log_->length(), 6u);
}

TEST_F(OutputLogTest, OnlyTheWriterWrites) {
  append(0, "abcdef");
  ASSERT_TRUE(log_->roll_back(2));
  log_->set_writer(Generation(2));
  EXPECT_EQ(log_->append(Generation(1), 6, "late").error().code(), ErrorCode::StaleGeneration);
  EXPECT_EQ(append(2, "X", 2), 3u);
  EXPECT_EQ(all(), "abX");
  ASSERT_TRUE(log_->roll_back(99));
  EXPECT_EQ(all(), "abX");
}

TEST_F(OutputLogTest, FollowersSeeWhatIsSafeAndEachByteOnce) {
  append(0, "abcdef");
  log_->set_safe(3);
  auto first = log_->follow(0, 100, false, {});
  EXPECT_EQ(first->data, "abc");
  // A recovery from further back prints other bytes where this follower has been already.
  ASSERT_TRUE(log_->roll_back(2));
  log_->set_writer(Generation(2));
  auto waiting = std::async(std::launch::async, [&] { return log_->follow(3, 100, false, {}); });
  append(2, "XYZ", 2);
  log_->set_safe(5);
  auto second = waiting.get();
  EXPECT_EQ(second->offset, 3u);
  EXPECT_EQ(second->data, "YZ");
}

TEST_F(OutputLogTest, LiveFollowersAreToldThatOutputWasTakenBack) {
  append(0, "abcdef");
  EXPECT_EQ(log_->follow(0, 100, true, {})->data, "abcdef");
  ASSERT_TRUE(log_->roll_back(2));
  log_->set_writer(Generation(2));
  append(2, "X", 2);
  auto part = log_->follow(6, 100, true, {});
  EXPECT_EQ(part->offset, 3u);
  EXPECT_EQ(append(3, "Y", 2), 4u);
  EXPECT_EQ(log_->follow(3, 100, true, {})->data, "Y");
}

TEST_F(OutputLogTest, TheEndMakesEverythingSafe) {
  append(0, "abc");
  EXPECT_EQ(log_->safe_length(), 0u);
  log_->set_ended(true);
  EXPECT_EQ(log_->safe_length(), 3u);
  auto part = log_->follow(0, 100, false, {});
  EXPECT_EQ(part->data, "abc");
  EXPECT_TRUE(part->ended);
  EXPECT_FALSE(log_->follow(0, 2, false, {})->ended);
}

TEST_F(OutputLogTest, WithoutCheckpointsEverythingIsSafe) {
  append(0, "abc");
  log_->set_always_safe(true);
  EXPECT_EQ(log_->follow(0, 100, false, {})->data, "abc");
}

TEST_F(OutputLogTest, WaitingEndsWhenStoppedOrRemoved) {
  std::stop_source stop;
  auto stopped =
      std::async(std::launch::async, [&] { return log_->follow(0, 1, true, stop.get_token()); });
  auto removed = std::async(std::launch::async, [&] { return log_->follow(0, 1, true, {}); });
  stop.request_stop();
  EXPECT_EQ(stopped.get().error().code(), ErrorCode::Cancelled);
  ASSERT_TRUE(logs_->remove(JobId(1)));
  EXPECT_EQ(removed.get().error().code(), ErrorCode::NotFound);
  EXPECT_TRUE(logs_->list()->empty());
}

TEST_F(OutputLogTest, ACheckpointNeedsTheOutputItCovers) {
  append(0, "abc");
  EXPECT_TRUE(log_->make_durable(3));
  EXPECT_EQ(log_->make_durable(4).error().code(), ErrorCode::FailedPrecondition);
}

}  // namespace
}  // namespace baton::control
