// Reads and writes CRIU's images of memory: pagemap-<id>.img (which pages) and pages-<n>.img (their
// content, in the same order).
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/result.h"
#include "sys/byte_source.h"

namespace baton::criu {

struct PagemapRun {
  std::uint64_t address = 0;
  std::uint64_t pages = 0;
  std::uint32_t flags = 0;  // pagemap_in_parent …

  std::uint64_t end() const { return address + pages * 4096; }
  friend bool operator==(const PagemapRun&, const PagemapRun&) = default;
};

// PE_* of CRIU's criu/include/pagemap.h.
inline constexpr std::uint32_t pagemap_in_parent = 1 << 0;
inline constexpr std::uint32_t pagemap_lazy = 1 << 1;
inline constexpr std::uint32_t pagemap_present = 1 << 2;

struct PagemapImage {
  std::uint32_t pages_id = 0;
  std::vector<PagemapRun> runs;  // in the order of addresses, disjoint
};

// Damaged: missing, cut short, not CRIU's, or its runs are out of order.
Result<PagemapImage> read_pagemap(const std::filesystem::path& path);
Result<PagemapImage> read_pagemap(const sys::ByteSource& source);
// Replaces the file; not synced.
Status write_pagemap(const std::filesystem::path& path, const PagemapImage& image);

std::string pagemap_name(std::uint32_t pid);
std::string pages_name(std::uint32_t pages_id);
std::filesystem::path pagemap_path(const std::filesystem::path& directory, std::uint32_t pid);
std::filesystem::path pages_path(const std::filesystem::path& directory, std::uint32_t pages_id);

}  // namespace baton::criu
