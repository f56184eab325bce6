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

// In address order. NotFound: no such process. A process without memory (a zombie) has none.
Result<std::vector<Mapping>> read_mappings(pid_t pid);
// Damaged: not in the kernel's format.
Result<std::vector<Mapping>> parse_mappings(std::string_view text);

}  // namespace baton::sys
