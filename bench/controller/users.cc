#include "controller/users.h"

#include <chrono>

#include "base/clock.h"

namespace baton::bench {

PacedCalls::PacedCalls(std::string name, double per_s, std::function<Status()> call)
    : name_(std::move(name)), thread_([this, per_s, call = std::move(call)](std::stop_token stop) {
        run(stop, per_s, call);
      }) {}

void PacedCalls::run(std::stop_token stop, double per_s, const std::function<Status()>& call) {
  const auto period = std::chrono::nanoseconds(static_cast<std::int64_t>(1e9 / per_s));
  auto next = std::chrono::steady_clock::now();
  while (!stop.stop_requested()) {
    const auto began_ns = boot_time_ns();
    const Status status = call();
    if (status) {
      outcome_.ms.push_back(static_cast<double>(boot_time_ns() - began_ns) / 1e6);
    } else {
      ++outcome_.failed;
      outcome_.error = status.error().message();
    }
    std::this_thread::sleep_until(next += period);
  }
}

PacedCalls::Outcome PacedCalls::stop() {
  thread_.request_stop();
  thread_.join();
  return std::move(outcome_);
}

}  // namespace baton::bench
