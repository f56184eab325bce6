// Makes CRIU's images of a process's memory from what CRIU dumped and what the tracker copied, so
// that stock `criu restore` finds a complete dump.
#pragma once

#include <filesystem>
#include <set>
#include <string>

#include "base/result.h"

namespace baton::agent {

// Writes the images of memory of all processes that have a map in `checkpoint` into `images`.
// There, the others are to be added by the caller: the result names the files that are made.
// Damaged: the checkpoint isn't whole; the message names the file.
Result<std::set<std::string>> assemble_memory(const std::filesystem::path& checkpoint,
                                              const std::filesystem::path& images);

}  // namespace baton::agent
