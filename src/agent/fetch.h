// Brings a checkpoint to this node: what is here already is not sent again.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>

#include "agent/context.h"

namespace baton::agent {

struct FetchRequest {
  JobId job;
  Generation generation;  // 0: to be staged
  CheckpointNumber number;
  std::filesystem::path directory;  // where it is put together; removed again on failure
  // Asked before any file comes; may be empty. An error breaks the fetch off.
  std::function<Status(const pb::Checkpoint&)> accept;
  // Makes what came the job's copy.
  std::function<Result<std::shared_ptr<LocalCopy>>(ControllerLink::Download&)> keep;
};

struct Fetched {
  std::shared_ptr<LocalCopy> copy;
  // The job's copy before, if it is not the same: on disk until it is let go, which takes a while.
  std::shared_ptr<LocalCopy> superseded;
  std::uint64_t bytes = 0;  // that came over the wire
  double ms = 0;
};

Result<Fetched> fetch_checkpoint(NodeContext& node, const FetchRequest& request,
                                 CancelToken& cancel);

}  // namespace baton::agent
