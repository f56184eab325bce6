// What CRIU's images say of each process, for people.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/result.h"
#include "sys/byte_source.h"

namespace baton::criu {

struct MappingImage {
  std::uint64_t start = 0;
  std::uint64_t end = 0;
  std::string access;  // "rw-p"
  std::string what;    // a path, "[heap]", "shared memory" …; empty: private memory
};

struct DescriptorImage {
  std::uint32_t fd = 0;
  std::string kind;  // "file", "inet-socket" …
  std::string what;  // a path, addresses …
};

struct ProcessImage {
  pid_t pid = 0;
  pid_t parent = 0;
  std::string command;  // as in /proc/PID/comm
  std::vector<pid_t> threads;
  std::vector<MappingImage> mappings;
  std::vector<DescriptorImage> descriptors;
  std::uint64_t environment_start = 0;
  std::uint64_t environment_end = 0;
};

struct AddressRange {
  std::uint64_t start = 0;
  std::uint64_t end = 0;
};

// Mappings of a process whose pages CRIU can restore lazily (vma_entry_can_be_lazy() of
// its criu/include/vma.h) and that a fork copies, ascending. Damaged: as below.
Result<std::vector<AddressRange>> read_lazy_mappings(const std::filesystem::path& directory,
                                                     pid_t pid);

// In the order of the tree. What a zombie does not have is empty. Names need not be UTF-8. Damaged:
// an image is missing, cut short or not CRIU's.
Result<std::vector<ProcessImage>> read_processes(const sys::OpenSource& images);

}  // namespace baton::criu
