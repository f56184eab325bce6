// Pages to store: the memory of real programs, taken while they stand still.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "base/result.h"

namespace baton::bench {

struct DataSet {
  std::string name;
  std::string pages;  // whole pages, one behind the other
};

// The private memory of a NumPy job and of redis with data in it, and as much at random; each at
// most `bytes_max` large. `directory`: for sockets; made and removed by the caller.
Result<std::vector<DataSet>> make_data(const std::filesystem::path& directory,
                                       std::size_t bytes_max);

}  // namespace baton::bench
