// Keeps checkpoints ready on this node for jobs that run elsewhere, as the controller orders
// (StageOrder): the target of a planned move before the job is frozen, and standbys.
//
// The orders for one job are executed one after the other, those for several side by side. What is
// kept, and what is being fetched, stands on the roster at once, so that the controller learns of
// it with the next registration or heartbeat and can have dropped what it does not want.
//
// Thread-safe.
#pragma once

#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

#include "agent/context.h"

namespace baton::agent {

class Stager {
 public:
  // `lives_here`: an incarnation of the job does; its copy is its own.
  Stager(NodeContext& node, std::function<bool(JobId)> lives_here);
  ~Stager();

  // Puts what an earlier agent kept on the roster.
  void take_up();
  void order(std::uint64_t order_id, const pb::StageOrder& order);
  // The job comes to life here: what is being fetched for it is given up.
  void give_way(JobId job);

 private:
  struct Work {
    std::uint64_t order_id;
    CheckpointNumber number;
    bool await_memory = false;
    CancelToken cancel;
    bool given_up = false;  // under the mutex
  };
  using Queue = std::deque<std::shared_ptr<Work>>;  // the first one is being worked on

  void work();
  pb::OrderResult execute(JobId job, Work& work);
  double await_memory(JobId job, CheckpointNumber number);  // milliseconds that it took
  Status drop(JobId job);
  Status check_budget(JobId job, const pb::Checkpoint& info) const;
  Result<std::shared_ptr<LocalCopy>> keep(Work& work, const std::filesystem::path& directory,
                                          ControllerLink::Download& download);
  void list();  // under the mutex
  std::filesystem::path scratch(JobId job) const;

  NodeContext& node_;
  const std::function<bool(JobId)> lives_here_;
  std::mutex memory_turn_;
  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::map<JobId, Queue> queues_;
  std::deque<JobId> ready_;  // whose next order nobody works on
  bool stopping_ = false;
  std::vector<std::thread> workers_;
};

}  // namespace baton::agent
