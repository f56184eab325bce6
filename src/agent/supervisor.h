// The incarnations of this node: makes them, gives them their orders, buries them.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "agent/context.h"
#include "agent/incarnation.h"
#include "agent/stager.h"

namespace baton::agent {

// order() and the kills may be called from any thread; the rest from the owner's.
class Supervisor {
 public:
  explicit Supervisor(NodeContext& node)
      : node_(node), stager_(node, [this](JobId job) { return lives(job); }) {}

  // Takes over what an earlier agent left: running sandboxes, and ends that nobody was told of.
  Status adopt_all();
  void order(const pb::Order& order);
  // Superseded incarnations, as the controller's answer to a registration names them.
  void kill_superseded(const pb::RegisterReply& reply);
  // Lets go of those that are done, and of local copies whose job has not been here for a while.
  void bury();
  // Ends all and waits for it.
  void kill_all();
  std::vector<pb::JobSpec> specs() const;

 private:
  using Key = std::pair<JobId, Generation>;

  Status adopt(const RecordName& name);
  void bring(const pb::StartOrder& order, std::uint64_t order_id, Incarnation::Origin origin);
  void refuse(std::uint64_t order_id, const Error& error);
  std::shared_ptr<Incarnation> find(JobId job, Generation generation) const;
  bool lives(JobId job) const;

  NodeContext& node_;
  mutable std::mutex mutex_;
  std::map<Key, std::shared_ptr<Incarnation>> incarnations_;
  std::map<JobId, Generation> newest_;           // seen here; older orders are stale
  std::map<JobId, std::int64_t> last_lived_ns_;  // of jobs that were here and may come back
  Stager stager_;
};

}  // namespace baton::agent
