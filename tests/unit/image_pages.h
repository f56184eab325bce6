// The memory in a checkpoint's images, page by page.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>

#include "agent/engine/assemble.h"
#include "base/result.h"

namespace baton::agent {

// Whether there are any: not of a zombie.
bool has_image_pages(const std::filesystem::path& images, pid_t pid);

// The content of every page that the images hold for a process, by address.
Result<std::map<std::uint64_t, std::string>> read_image_pages(const std::filesystem::path& images,
                                                              pid_t pid);

// Those of memory, in `images`, as a restore gets them that waits for all of it.
Result<Assembled> assemble_all(const std::filesystem::path& checkpoint,
                               const std::filesystem::path& images);

// The images as a restore gets them, in `images`, which is made anew.
Status complete_images(const std::filesystem::path& checkpoint,
                       const std::filesystem::path& images);

// Where two pages differ, but for one struct rseq: the kernel writes the processor's number there
// whenever a thread runs, as it does for CRIU between two dumps.
std::string page_differences(const std::string& a, const std::string& b);

}  // namespace baton::agent
