// The kernel's own flags of a process's mappings (vm_flags: protection, advice, locks), by a BPF
// iterator over them (task_vma: Linux 5.12, of one task: 6.1). It takes some 60 us, where
// /proc/PID/smaps, which says the same in words, looks at each page first, 15 ms for each GiB.
//
// What the bits mean differs between kernels and architectures: they are good for comparing.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <vector>

#include "base/fd.h"
#include "base/result.h"

namespace baton::sys {

struct VmaFlags {
  std::uint64_t start = 0;
  std::uint64_t end = 0;
  std::uint64_t flags = 0;

  friend bool operator==(const VmaFlags&, const VmaFlags&) = default;
};

// Thread-safe.
class VmaFlagsReader {
 public:
  // Takes some 20 ms: the kernel's description of its types (BTF) is looked through. Unfit: this
  // kernel can't, or does not let us.
  static Result<VmaFlagsReader> create();

  // In the order of addresses. NotFound: no such process. Unavailable: they change just now.
  Result<std::vector<VmaFlags>> read(pid_t pid) const;

 private:
  explicit VmaFlagsReader(Fd program) : program_(std::move(program)) {}
  Fd program_;
};

}  // namespace baton::sys
