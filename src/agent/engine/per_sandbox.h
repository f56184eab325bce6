// What the engine keeps of each sandbox from one checkpoint to the next, for as long as it runs.
// Thread-safe; what it hands out is used by the sandbox's thread.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "agent/sandbox.h"
#include "sys/process.h"

namespace baton::agent {

// T is made from a folder of its own in the sandbox's directory.
template <typename T>
class PerSandbox {
 public:
  explicit PerSandbox(std::string folder) : folder_(std::move(folder)) {}

  std::shared_ptr<T> of(const Sandbox& sandbox) {
    std::lock_guard lock(mutex_);
    // What is kept takes memory and room on disk.
    const auto& directory = sandbox.spec().directory;
    std::erase_if(entries_, [&](const auto& entry) {
      const bool same = entry.first == directory && entry.second.pid == sandbox.init_pid();
      return !same && entry.second.init.wait_ended(std::chrono::milliseconds(0));
    });
    auto at = entries_.find(directory);
    if (at != entries_.end()) return at->second.kept;
    auto init = sys::PidFd::open(sandbox.init_pid());
    auto kept = std::make_shared<T>(directory / folder_);
    if (init) entries_[directory] = {std::move(*init), sandbox.init_pid(), kept};
    return kept;
  }

 private:
  struct Entry {
    sys::PidFd init;
    pid_t pid = 0;
    std::shared_ptr<T> kept;
  };
  const std::string folder_;
  std::mutex mutex_;
  std::map<std::filesystem::path, Entry> entries_;  // by the sandbox's directory
};

}  // namespace baton::agent
