// Work that is begun as soon as CRIU has stopped all tasks, while it dumps them. Internal to the
// engine.
//
// CRIU has no hook for that instant (network-lock is not called, as the job's network namespace is
// CRIU's own), but the shim knows it and writes to a fifo in the images directory; see
// criu/shim/mapping_flags.cc.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <thread>

#include "base/fd.h"
#include "base/result.h"

namespace baton::agent {

class WhenStopped {
 public:
  // `images`: where CRIU will write, on the node. `work` runs in a thread of its own.
  static Result<std::unique_ptr<WhenStopped>> create(const std::filesystem::path& images,
                                                     std::function<void()> work);
  WhenStopped(const WhenStopped&) = delete;
  ~WhenStopped() { finish(); }

  // Waits for the work if it has begun, else sees to it that it never does. Whether it was done.
  // `hasty`: it does not wait for a processor from now on. Before, it must not keep one from the
  // tasks, in which CRIU runs code of its own meanwhile.
  bool finish(bool hasty = false);

 private:
  WhenStopped(Fd fifo, Fd cancel, std::function<void()> work);
  void wait_and_work();

  Fd fifo_;
  Fd cancel_;  // an eventfd
  std::function<void()> work_;
  bool done_ = false;
  std::thread thread_;
};

}  // namespace baton::agent
