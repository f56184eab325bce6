// Where things lie in a checkpoint's directory; engine.h describes them.
#pragma once

#include <fmt/format.h>
#include <sys/types.h>

#include <filesystem>
#include <map>
#include <string>

#include "base/result.h"
#include "store/page_map.h"

namespace baton::agent {

namespace layout {

inline constexpr const char* images_folder = "images";
inline constexpr const char* memory_folder = "memory";
inline constexpr const char* packs_folder = "packs";
inline constexpr const char* files_folder = "files";

// `pid`: as CRIU's images name the process.
inline std::string map_file(pid_t pid) { return fmt::format("{}/{}.map", memory_folder, pid); }

inline std::string tree_archive(std::size_t number) { return fmt::format("tree-{}.tar", number); }

}  // namespace layout

// The maps of all processes whose memory was tracked, by their pid in CRIU's images. Damaged: names
// the file.
Result<std::map<pid_t, store::PageMap>> read_maps(const std::filesystem::path& checkpoint);

}  // namespace baton::agent
