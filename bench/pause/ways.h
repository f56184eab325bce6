// The ways to take a checkpoint that are compared. Each starts the workload as it needs it, and
// ends it and removes all files when it goes.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "agent/engine/engine.h"
#include "pause/workload.h"
#include "scratch.h"

namespace baton::bench {

struct Places {
  std::filesystem::path criu_prefix;
  std::filesystem::path directory;  // for Baton's checkpoints; best a disk
  std::filesystem::path tmpfs;      // for those of the others
};

// Of one checkpoint.
struct Taken {
  double frozen_ms = 0;       // as Baton counts, from before the first task stops
  double criu_frozen_ms = 0;  // as CRIU counts; 0: not CRIU
  double total_ms = 0;
  std::uint64_t captured_bytes = 0;  // memory that was copied for it
  std::string memory;
  std::optional<agent::CheckpointSteps> steps;
};

class Way {
 public:
  virtual ~Way() = default;
  virtual Result<Taken> checkpoint() = 0;
  virtual WorkloadFigures& figures() = 0;
};

Result<std::unique_ptr<Way>> start_baton(const WorkloadShape& shape, const Places& places,
                                         bool tracked);
// `criu dump --leave-running` of the same prefix, without Baton's shim, to tmpfs.
Result<std::unique_ptr<Way>> start_stock_criu(const WorkloadShape& shape, const Places& places);
// `dmtcp_command --bcheckpoint`, uncompressed, to tmpfs.
Result<std::unique_ptr<Way>> start_dmtcp(const WorkloadShape& shape, const Places& places);
bool have_dmtcp();

// How long CRIU says that the tasks stood still, from the statistics it leaves beside its images.
double criu_frozen_ms(const std::filesystem::path& images);

}  // namespace baton::bench
