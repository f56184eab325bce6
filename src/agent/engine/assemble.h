// Puts memory that the tracker copied into CRIU's images, so that stock `criu restore` finds a
// complete dump.
#pragma once

#include <sys/types.h>

#include <filesystem>

#include "agent/engine/page_set.h"
#include "base/result.h"

namespace baton::agent {

// `images`: a dump of CRIU's that lacks `pages` of process `image_pid` (as the images name it).
// They are taken from `store` and put in their places between those that CRIU dumped. Not synced.
// Returns how many of them CRIU had dumped as well, in the same freeze: 0, unless its shim is not
// at work. Damaged: the images aren't whole. After an error the directory is no checkpoint.
Result<std::uint64_t> assemble_memory(const std::filesystem::path& images, pid_t image_pid,
                                      const PageSet& pages, const PageStore& store);

}  // namespace baton::agent
