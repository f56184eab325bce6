// Brings an incarnation's output to the controller, every byte once.
//
// A thread of its own watches the output file (inotify; no polling) and ships what is new, from the
// offset that the controller names. What has been shipped and is covered by a durable checkpoint
// is punched out of the local file, so that a chatty job does not fill the disk; the file's length
// stays.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <filesystem>
#include <mutex>
#include <thread>

#include "agent/cancel.h"
#include "agent/controller_link.h"
#include "base/fd.h"
#include "base/ids.h"

namespace baton::agent {

class OutputShipper {
 public:
  OutputShipper(ControllerLink& controller, JobId job, Generation generation,
                std::filesystem::path file);
  ~OutputShipper();  // stops at once; flush first if it matters

  Status start();
  void stop();

  // Returns when the controller has every byte before `offset`. StaleGeneration: it takes no more
  // from this incarnation. Cancelled: by stop() or `cancel`. Keeps trying while the controller is
  // away, up to `limit` (TimedOut).
  Status flush_to(std::uint64_t offset, CancelToken& cancel,
                  std::chrono::milliseconds limit = std::chrono::hours(24 * 365));
  // As flush_to() the file's present end.
  Status flush_all(CancelToken& cancel,
                   std::chrono::milliseconds limit = std::chrono::hours(24 * 365));

  // A durable checkpoint covers everything before `offset`. Any thread.
  void set_safe(std::uint64_t offset);

 private:
  void loop();
  Result<std::uint64_t> file_size() const;
  Status ship_some(std::uint64_t size);
  void punch();
  void wait_for_change(std::uint64_t size);
  void wake();

  ControllerLink& controller_;
  const JobId job_;
  const Generation generation_;
  const std::filesystem::path path_;
  Fd file_;
  Fd inotify_;
  Fd wake_;
  CancelToken cancel_;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::uint64_t shipped_ = 0;  // the controller has every byte before
  bool known_ = false;         // it has been asked
  std::uint64_t safe_ = 0;
  std::uint64_t wanted_ = 0;  // someone waits for this offset: don't gather
  bool refused_ = false;      // stale: nothing is taken any more
  bool stopping_ = false;
  std::uint64_t punched_ = 0;  // loop() only
  std::thread thread_;
};

}  // namespace baton::agent
