// Time and chance of one simulation. Everything that happens in it follows from its seed.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <functional>
#include <queue>
#include <string>
#include <utility>
#include <vector>

namespace baton::sim {

using TimeUs = std::int64_t;
constexpr TimeUs kMs = 1'000;
constexpr TimeUs kSecond = 1'000'000;

// splitmix64: the same on every machine, unlike the standard library's distributions.
class Rng {
 public:
  explicit Rng(std::uint64_t seed) : state_(seed) {}

  std::uint64_t next() {
    std::uint64_t z = (state_ += 0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }
  std::int64_t between(std::int64_t low, std::int64_t high) {
    return low + static_cast<std::int64_t>(next() % static_cast<std::uint64_t>(high - low + 1));
  }
  double fraction() { return static_cast<double>(next() >> 11) / 9007199254740992.0; }
  bool chance(double probability) { return fraction() < probability; }

 private:
  std::uint64_t state_;
};

class Kernel {
 public:
  explicit Kernel(std::uint64_t seed) : rng(seed) {}

  TimeUs now() const { return now_; }
  void at(TimeUs when, std::function<void()> what) {
    queue_.push({std::max(when, now_), sequence_++, std::move(what)});
  }
  void after(TimeUs delay, std::function<void()> what) { at(now_ + delay, std::move(what)); }
  void run_until(TimeUs end) {
    while (!queue_.empty() && queue_.top().when <= end && failure.empty()) {
      Item item = std::move(const_cast<Item&>(queue_.top()));
      queue_.pop();
      now_ = item.when;
      ++events;
      item.what();
    }
    if (failure.empty()) now_ = end;
  }

  // The first broken promise; the simulation stops there.
  void fail(std::string what) {
    if (failure.empty()) failure = std::move(what);
  }
  void trace(const std::string& line) {
    if (verbose) fmt::print("{:>12.3f}  {}\n", static_cast<double>(now_) / kSecond, line);
  }

  Rng rng;
  bool verbose = false;
  std::string failure;
  std::uint64_t events = 0;

 private:
  struct Item {
    TimeUs when;
    std::uint64_t sequence;
    std::function<void()> what;
    bool operator<(const Item& other) const {
      return std::pair(when, sequence) > std::pair(other.when, other.sequence);
    }
  };
  TimeUs now_ = 0;
  std::uint64_t sequence_ = 0;
  std::priority_queue<Item> queue_;
};

// How bad the weather is; all zero once the faults stop.
struct Weather {
  double loss = 0;       // of a message between agent and controller
  double duplicate = 0;  // of a request
  double straggle = 0;   // of a message that takes up to seconds
  double order_failure = 0;
  double damage = 0;  // of a checkpoint
  bool faults = false;
};

}  // namespace baton::sim
