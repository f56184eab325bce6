// Reads all checkpoints over and over, slowly, so that damage is found while the job that
// needs it still runs: its next checkpoint brings a damaged file anew.
#pragma once

#include <condition_variable>
#include <mutex>
#include <set>
#include <stop_token>
#include <thread>

#include "control/loop.h"

namespace baton::control {

class Scrubber {
 public:
  explicit Scrubber(Loop& loop) : loop_(loop), thread_([this](std::stop_token s) { run(s); }) {}

  // All shared files once, then what each checkpoint has beside them; so each has been verified. A
  // damaged shared file raises an event "damage" that names its checkpoints.
  void pass(std::stop_token stop);

 private:
  void run(std::stop_token stop);
  std::set<std::string> read_shared_files(std::stop_token stop);
  void tell(const store::CheckpointStore::SharedFileCheck& check);
  void pause(std::chrono::milliseconds time, std::stop_token stop);

  Loop& loop_;
  std::mutex mutex_;
  std::condition_variable_any never_;
  std::jthread thread_;
};

}  // namespace baton::control
