// The incarnations that live on this node and the copies it keeps for others, as the lease thread
// sees them.
//
// Readers take a snapshot without a lock; writers copy. So nothing that an incarnation does,
// however slow, can hold up a heartbeat.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <vector>

#include "agent/lease_relay.h"
#include "base/ids.h"
#include "wire/baton.pb.h"

namespace baton::agent {

namespace pb = baton::v1;

// An incarnation stays on the roster until the controller knows how it ended: what is not on it
// counts as lost and is restored elsewhere.
struct RosterEntry {
  JobId job;
  Generation generation;
  std::atomic<pb::IncarnationState> state = pb::INCARNATION_STARTING;
  std::atomic<std::shared_ptr<LeaseRelay>> relay;  // none before its sandbox is made
  pb::JobSpec spec;                                // set before others see it

  pb::Incarnation describe() const {
    pb::Incarnation incarnation;
    incarnation.set_job_id(job.value);
    incarnation.set_generation(generation.value);
    incarnation.set_state(state);
    return incarnation;
  }
};

class Roster {
 public:
  using Entries = std::vector<std::shared_ptr<RosterEntry>>;

  std::shared_ptr<const Entries> snapshot() const { return entries_.load(); }

  void add(std::shared_ptr<RosterEntry> entry) {
    std::lock_guard lock(writers_);
    auto copy = std::make_shared<Entries>(*entries_.load());
    copy->push_back(std::move(entry));
    entries_.store(std::move(copy));
  }
  void remove(const RosterEntry* entry) {
    std::lock_guard lock(writers_);
    auto copy = std::make_shared<Entries>(*entries_.load());
    std::erase_if(*copy, [&](const auto& other) { return other.get() == entry; });
    entries_.store(std::move(copy));
  }

  // What the controller asked to be kept ready; complete.
  using Staged = std::vector<pb::StagedCopy>;
  std::shared_ptr<const Staged> staged() const { return staged_.load(); }
  void set_staged(Staged staged) {
    staged_.store(std::make_shared<const Staged>(std::move(staged)));
  }

 private:
  std::atomic<std::shared_ptr<const Staged>> staged_ = std::make_shared<const Staged>();
  std::mutex writers_;
  std::atomic<std::shared_ptr<const Entries>> entries_ = std::make_shared<const Entries>();
};

}  // namespace baton::agent
