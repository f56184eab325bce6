// The flags of large processes' mappings, read before the freeze so that CRIU needs not wait for
// them in it; see criu/shim/mapping_flags.cc for what the shim does with them. Internal to the
// engine.
//
// What may have changed unseen between the reading and the freeze is advice for a whole mapping
// (madvise). So the flags are read again once the job runs, or while it is held: only if they are
// the same did the checkpoint get the right ones. A program that gives advice and takes it back
// within those few milliseconds, with the freeze just between, gets the mapping restored without
// it. The kernel's own flags, which are had at once where BPF iterators are (sys/vma_flags.h), tell
// mostly that nothing has changed; else the words are read again. They count only where they
// were the same before and after the words were read, with as many bits as there are words.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "sys/proc_maps.h"
#include "sys/vma_flags.h"

namespace baton::agent {

// Used by one thread at a time.
class MappingFlagsCache {
 public:
  using Processes = std::vector<std::pair<pid_t, pid_t>>;  // as Sandbox::processes()

  // Leaves the flags where the shim finds them. `images`: where CRIU will write. A process whose
  // flags can't be had is left to the kernel.
  void before_freeze(const Processes& processes, const std::filesystem::path& images);
  // Instead: the kernel is asked for all of them this time.
  void leave_none();
  // The job runs again, or is held: whether what before_freeze() left was true. A process of which
  // it was not is left to the kernel for a while, the longer the more often that happened in a row.
  bool hold_true();

 private:
  struct Entry {
    std::string maps;  // /proc/PID/maps when the flags were read
    std::vector<sys::MappingFlags> flags;
    std::vector<sys::VmaFlags> kernels;  // of the same time; empty: not known
    bool used = false;                   // in the checkpoint that is being taken
    unsigned mistakes = 0;               // in a row
    unsigned left_to_kernel = 0;         // so many checkpoints more
  };
  static Status read(pid_t pid, Entry& entry);
  // False: they may have changed since they were read.
  static bool unchanged(pid_t pid, const Entry& entry);
  Status leave(pid_t inner, pid_t pid, const std::filesystem::path& images);

  std::map<pid_t, Entry> entries_;  // by pid on the node
};

}  // namespace baton::agent
