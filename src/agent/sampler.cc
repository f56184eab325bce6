#include "agent/sampler.h"

#include <pthread.h>

#include "agent/node_facts.h"
#include "base/clock.h"

namespace baton::agent {
namespace {

constexpr std::chrono::milliseconds kPeriod{250};

}  // namespace

Sampler::Sampler(sys::MetricsSources sources, const HealthMonitor& health)
    : reader_(std::move(sources)),
      capacity_(reader_.capacity()),
      cpu_source_(reader_.cpu_source()),
      health_(health) {}

Sampler::~Sampler() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void Sampler::start() {
  sample();
  thread_ = std::thread([this] { loop(); });
}

void Sampler::loop() {
  ::pthread_setname_np(::pthread_self(), "sampler");
  std::unique_lock lock(mutex_);
  while (!changed_.wait_for(lock, kPeriod, [this] { return stopping_; })) {
    lock.unlock();
    sample();
    lock.lock();
  }
}

void Sampler::sample() {
  auto sample = std::make_shared<pb::NodeSample>(to_sample(reader_.sample(boot_time_ns())));
  if (auto cause = health_.about_to_fail()) {
    sample->set_about_to_fail(true);
    sample->set_about_to_fail_cause(*cause);
  }
  newest_.store(std::move(sample));
}

std::uint64_t Sampler::memory_free_bytes() const {
  const auto sample = newest_.load();
  if (!sample) return 0;
  return static_cast<std::uint64_t>(static_cast<double>(capacity_.memory_bytes) *
                                    (1.0 - sample->memory_utilization()));
}

}  // namespace baton::agent
