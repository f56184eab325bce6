// The mappings of a process, as /proc/PID/maps lists them.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace baton::sys {

struct Mapping {
  std::uint64_t start = 0;
  std::uint64_t end = 0;
  bool readable = false;
  bool writable = false;
  bool executable = false;
  bool shared = false;
  std::uint64_t offset = 0;
  std::uint64_t inode = 0;  // 0: no file
  std::string name;         // path, "[heap]", "[anon:…]" or empty

  // The kernel's own: vdso, vvar, vsyscall and their kin, whose content is the kernel's.
  bool kernel_owned() const { return name.starts_with("[v"); }
};

// The text of /proc/PID/maps.
Result<std::string> read_mappings_text(pid_t pid);
// In address order. NotFound: no such process. A process without memory (a zombie) has none.
Result<std::vector<Mapping>> read_mappings(pid_t pid);
// Damaged: not in the kernel's format.
Result<std::vector<Mapping>> parse_mappings(std::string_view text);

// What the kernel says of a mapping in /proc/PID/smaps alone.
struct MappingFlags {
  std::string mapping;  // the mapping's line in /proc/PID/maps up to its inode
  std::string flags;    // "rd wr mr mw me ac": VmFlags, see proc(5)

  friend bool operator==(const MappingFlags&, const MappingFlags&) = default;
};

// In address order. Costs the kernel about 10 ms per GiB, during which the process can't change its
// mappings (one at a time). NotFound: no such process.
Result<std::vector<MappingFlags>> read_mapping_flags(pid_t pid);
// Of the content of smaps.
std::vector<MappingFlags> parse_mapping_flags(std::string_view text);

}  // namespace baton::sys
