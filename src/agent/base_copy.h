// A base for jobs where the node's own root can't serve: an overlay can't be put over an overlay
// (CRIU does not find the mounts of mapped files then), and a container's root is one.
#pragma once

#include <filesystem>

#include "base/result.h"

namespace baton::agent {

// Fails, naming the cure, if `data` is on an overlay itself.
Status check_data_directory(const std::filesystem::path& data);

// "/" where that can be the base; else DATA/base, a copy of the root's own filesystem that is made
// once per container and marked when it is complete.
Result<std::filesystem::path> prepare_base(const std::filesystem::path& data);

}  // namespace baton::agent
