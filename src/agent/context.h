// What the incarnations of a node share. Everything referred to outlives them.
#pragma once

#include <chrono>
#include <condition_variable>
#include <filesystem>
#include <functional>
#include <mutex>
#include <string>
#include <vector>

#include "agent/cancel.h"
#include "agent/controller_link.h"
#include "agent/engine/engine.h"
#include "agent/factory.h"
#include "agent/lease.h"
#include "agent/local_copies.h"
#include "agent/ready_keeper.h"
#include "agent/roster.h"

namespace baton::agent {

// Opens once the controller knows this agent: reports about incarnations make sense only then.
class RegistrationGate {
 public:
  void open() {
    std::lock_guard lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }
  // Waits so long at most; true if it is open.
  bool wait_for(std::chrono::milliseconds time) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, time, [this] { return open_; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool open_ = false;
};

struct NodeContext {
  std::string node;
  std::filesystem::path data;  // the agent's directory
  std::filesystem::path base;  // what jobs without --rootfs see as their root
  std::filesystem::path criu_prefix;
  std::string criu_version;  // empty: none that works
  std::string criu_problem;
  std::vector<std::string> cpu_features;
  std::string cgroup_parent;
  std::uint64_t standby_limit_bytes = 0;  // of copies for jobs that run elsewhere; 0: the disk's

  ControllerLink& controller;
  Engine& engine;
  SandboxFactory& sandboxes;
  Roster& roster;
  LeaseClock& lease;
  LocalCopies& copies;
  RegistrationGate& registered;
  ReadyKeeper* ready = nullptr;  // may be null

  std::function<std::int64_t()> now_ns;                     // boot time
  std::function<void(const pb::OrderResult&)> send_result;  // dropped when nobody listens
  std::function<std::uint64_t()> memory_free_bytes;         // an estimate
  std::function<void()> finished;                           // an incarnation's thread is done

  std::filesystem::path incarnations() const { return data / "incarnations"; }
  std::filesystem::path scratch() const { return data / "scratch"; }
};

}  // namespace baton::agent
