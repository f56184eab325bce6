// Proves that a checkpoint restores, without touching the job it was taken of.
#pragma once

#include <atomic>
#include <memory>
#include <stop_token>
#include <string>

#include "agent/context.h"

namespace baton::agent {

// One try, on a thread of its own that ends with it: the thread's priority, network namespace and
// file descriptors are changed. The scratch sandbox has no network but loopback, writable volumes
// are covered by throw-away overlays, and the restored tree never runs.
class Preflight {
 public:
  Preflight(NodeContext& node, pb::JobSpec spec, JobId job, Generation generation,
            std::shared_ptr<LocalCopy> copy);
  ~Preflight();

  // Unfit: this node hasn't the memory to try; nothing is known then.
  Status run(std::string* log_tail);
  // What run() left. Also done at destruction.
  void clean_up();
  // From another thread: makes run() return soon.
  void cancel();
  // From another thread, which can't wait: the processor is wanted for something urgent. What is
  // still to be read is left; run() returns Cancelled then.
  void give_way() { given_up_.request_stop(); }

 private:
  Status check_memory() const;
  Status cover_volumes(SandboxSpec& spec);

  NodeContext& node_;
  const pb::JobSpec spec_;
  const JobId job_;
  const Generation generation_;
  const std::shared_ptr<LocalCopy> copy_;
  const std::filesystem::path directory_;
  std::vector<std::filesystem::path> mounts_;
  std::atomic<std::shared_ptr<Sandbox>> sandbox_;
  std::stop_source given_up_;
};

// Mounts and folders of preflights that an earlier agent did not finish.
Status remove_scratch(const std::filesystem::path& scratch);

}  // namespace baton::agent
