// What many agents that ship at once cost the controller's memory.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "base/result.h"
#include "store/data.h"

namespace baton::bench {

struct ShippingFigures {
  double before_mib = 0;  // resident, when all jobs run and nothing is shipped yet
  // The most that was resident at any time, as the kernel notes it (VmHWM): the heap, stacks, and
  // what is mapped of the program and its libraries. The page cache of the files that arrive is not
  // in it: nobody maps them, and the kernel takes it back when somebody needs the memory.
  double peak_mib = 0;
  double peak_anonymous_mib = 0;  // of heap and stacks alone, looked at now and then
  double seconds = 0;             // from the first byte until all are durable and visible
  std::uint64_t bytes = 0;        // that travelled, of all together
  int threads = 0;                // the controller's, at the most
};

// Makes a checkpoint of at least `bytes` in packs for each of some agents, no two alike, out of the
// pages in `sets`; starts a controller, has each agent join and run a job; and ships all at once by
// the code of the agent, each over a connection of its own with mutual TLS. On a disk: `directory`
// takes twice what is shipped.
Result<ShippingFigures> ship_at_once(const std::filesystem::path& directory,
                                     const std::vector<DataSet>& sets, int agents,
                                     std::uint64_t bytes);

}  // namespace baton::bench
