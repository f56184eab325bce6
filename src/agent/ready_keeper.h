// Keeps the memory of staged checkpoints decompressed, as far as this node has memory to spare, so
// that a job that comes to life here has its pages soon (see ReadyPacks). What the node can't spare
// any more is given back within some seconds, the largest first.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <stop_token>
#include <thread>

#include "agent/engine/ready_packs.h"
#include "agent/local_copies.h"
#include "base/ids.h"

namespace baton::agent {

// Thread-safe. What it does it does on a thread of its own, at the lowest priority.
class ReadyKeeper {
 public:
  // `budget`: bytes for all jobs together, asked for each time. While a job's are renewed, those
  // that it had before come on top.
  explicit ReadyKeeper(std::function<std::uint64_t()> budget);
  ~ReadyKeeper();

  // A newer checkpoint of the job was staged. It is ready some time later, unless a newer one still
  // comes first.
  void staged(JobId job, std::shared_ptr<LocalCopy> copy);
  // Until that checkpoint or a newer one is ready, as far as there is room, or can't be read, or is
  // not staged any more; for so long at most.
  void await(JobId job, CheckpointNumber number, std::chrono::milliseconds most);
  // It is not staged here any more.
  void drop(JobId job);
  // The same, since the job comes to life here: gives what there is. It may be of an earlier
  // checkpoint, most packs of which the newest one has as well. Null: nothing.
  std::shared_ptr<const ReadyPacks> take(JobId job);
  // What they take.
  std::uint64_t bytes() const;
  // Waits until there is nothing left to do; for tests.
  void settle();

 private:
  struct Entry {
    std::shared_ptr<const ReadyPacks> packs;  // may be null
    std::shared_ptr<LocalCopy> newer;         // to be made ready; may be null
    CheckpointNumber tried;                   // the newest that was made ready, or found damaged
  };
  void work();
  std::map<JobId, Entry>::iterator next();  // under the mutex, as what follows
  void make(JobId job, std::unique_lock<std::mutex>& lock);
  void shed(std::unique_lock<std::mutex>& lock);
  std::uint64_t bytes_but(JobId job) const;  // under the mutex

  const std::function<std::uint64_t()> budget_;
  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::map<JobId, Entry> jobs_;
  std::stop_source at_work_;  // what is being made ready
  JobId at_work_on_, last_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace baton::agent
