// The mount table as /proc shows it, and option strings for overlays.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace baton::sys {

struct Mount {
  std::uint64_t id = 0;
  std::filesystem::path root;    // what of the filesystem is mounted
  std::filesystem::path target;  // where
  std::string type;
  std::string source;
  std::string super_options;
  bool read_only = false;
};

// The mounts of the calling process, in mount order.
Result<std::vector<Mount>> read_mounts();
std::vector<Mount> parse_mountinfo(std::string_view text);

// The id of the mount that `path` is on, as in Mount::id.
Result<std::uint64_t> mount_id_of(const std::filesystem::path& path);
Result<bool> is_on_overlay(const std::filesystem::path& path);

// A path as it must be written in lowerdir=, upperdir= or workdir=.
std::string escape_overlay_path(const std::filesystem::path& path);

}  // namespace baton::sys
