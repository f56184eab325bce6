#include "agent/lease_relay.h"

#include "sys/priority.h"

namespace baton::agent {

LeaseRelay::LeaseRelay(std::shared_ptr<Sandbox> sandbox)
    : sandbox_(std::move(sandbox)), thread_([this] { loop(); }) {}

LeaseRelay::~LeaseRelay() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_one();
  thread_.join();
}

void LeaseRelay::renew(std::int64_t deadline_boot_ns) {
  {
    std::lock_guard lock(mutex_);
    deadline_ns_ = std::max(deadline_ns_, deadline_boot_ns);
  }
  changed_.notify_one();
}

void LeaseRelay::loop() {
  sys::raise_thread_priority();
  std::int64_t told_ns = 0;
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return stopping_ || deadline_ns_ > told_ns; });
    if (stopping_) return;
    told_ns = deadline_ns_;
    lock.unlock();
    // A sandbox that can't be told keeps its old deadline and fences itself, as it must.
    (void)sandbox_->set_lease_deadline(told_ns);
    lock.lock();
  }
}

}  // namespace baton::agent
