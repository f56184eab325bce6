#include <gtest/gtest.h>

#include "agent/throttle.h"

namespace baton::agent {
namespace {

constexpr std::int64_t kMs = 1'000'000;

// Time that passes a little each time somebody looks.
struct Clock {
  std::int64_t now_ns = 1'000'000'000;
  Throttle::NowNs look() {
    return [this] { return now_ns += kMs; };
  }
};

class ThrottleTest : public testing::Test {
 protected:
  Clock clock_;
  CancelToken cancel_;
  std::atomic<bool> given_up_ = false;
};

TEST_F(ThrottleTest, LetsNoMorePassThanItsRateAndOneBurst) {
  Throttle throttle(100'000, clock_.look());
  const std::int64_t began_ns = clock_.now_ns;
  std::uint64_t passed = 0;
  for (int i = 0; i < 60; ++i) {
    throttle.pass(1'000, given_up_, cancel_);
    passed += 1'000;
    const std::int64_t ms = (clock_.now_ns - began_ns) / kMs;
    ASSERT_LE(passed, static_cast<std::uint64_t>(ms + Throttle::kBurstMs) * 100);
  }
  EXPECT_GE((clock_.now_ns - began_ns) / kMs, 500);
}

TEST_F(ThrottleTest, APauseIsNotSavedUp) {
  Throttle throttle(100'000, clock_.look());
  clock_.now_ns += 3'600'000 * kMs;
  const std::int64_t began_ns = clock_.now_ns;
  for (int i = 0; i < 30; ++i) throttle.pass(1'000, given_up_, cancel_);
  EXPECT_GE((clock_.now_ns - began_ns) / kMs, 200);
}

TEST_F(ThrottleTest, NobodyWaitsWithoutALimitOrWhenItIsGivenUp) {
  Throttle none(0, clock_.look());
  none.pass(UINT64_MAX, given_up_, cancel_);
  Throttle slow(1, clock_.look());
  given_up_ = true;
  slow.pass(1'000'000, given_up_, cancel_);
  given_up_ = false;
  cancel_.cancel();
  slow.pass(1'000'000, given_up_, cancel_);
}

}  // namespace
}  // namespace baton::agent
