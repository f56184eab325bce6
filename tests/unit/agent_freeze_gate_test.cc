#include <gtest/gtest.h>

#include <atomic>
#include <optional>
#include <thread>
#include <vector>

#include "agent/engine/freeze_gate.h"

namespace baton::agent {
namespace {

using namespace std::chrono_literals;

TEST(FreezeGate, NoMoreThanThatManyAreWithinAtATime) {
  FreezeGate gate(2);
  std::atomic<int> within = 0, most = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i)
    threads.emplace_back([&] {
      for (int round = 0; round < 200; ++round) {
        const auto turn = gate.wait(1min);
        const int now = ++within;
        for (int seen = most; seen < now && !most.compare_exchange_weak(seen, now);) {
        }
        std::this_thread::yield();
        --within;
      }
    });
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(most, 2);
}

TEST(FreezeGate, WhoWaitedLongEnoughGoesOnAndTakesNobodysTurn) {
  FreezeGate gate(1);
  std::optional<FreezeGate::Turn> first(gate.wait(0ms));
  {
    const auto second = gate.wait(1ms);
    first.reset();
    std::optional<FreezeGate::Turn> third(gate.wait(1min));
    std::atomic<bool> entered = false;
    std::thread fourth([&] {
      const auto turn = gate.wait(1min);
      entered = true;
    });
    EXPECT_FALSE(entered);
    third.reset();
    fourth.join();
  }
  const auto last = gate.wait(1min);
}

}  // namespace
}  // namespace baton::agent
