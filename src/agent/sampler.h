// Measures the node at a steady pace, so that a heartbeat only has to pick up the newest sample.
#pragma once

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>

#include "agent/health.h"
#include "sys/node_metrics.h"
#include "wire/baton.pb.h"

namespace baton::agent {

namespace pb = baton::v1;

class Sampler {
 public:
  Sampler(sys::MetricsSources sources, const HealthMonitor& health);
  ~Sampler();

  void start();
  sys::NodeCapacity capacity() const { return capacity_; }
  const std::string& cpu_source() const { return cpu_source_; }
  // Any thread, without waiting; never null once started.
  std::shared_ptr<const pb::NodeSample> newest() const { return newest_.load(); }
  std::uint64_t memory_free_bytes() const;

 private:
  void loop();
  void sample();

  sys::NodeMetricsReader reader_;
  const sys::NodeCapacity capacity_;
  const std::string cpu_source_;
  const HealthMonitor& health_;
  std::atomic<std::shared_ptr<const pb::NodeSample>> newest_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace baton::agent
