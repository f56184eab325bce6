// Who could change a private file without a system call: through a mapping, or by asynchronous I/O.
#pragma once

#include <sys/stat.h>
#include <sys/types.h>

#include <compare>
#include <functional>
#include <set>
#include <utility>
#include <vector>

#include "base/result.h"

namespace baton::agent {

struct FileId {
  dev_t device = 0;
  ino_t inode = 0;
  explicit FileId(const struct stat& info) : device(info.st_dev), inode(info.st_ino) {}
  friend auto operator<=>(const FileId&, const FileId&) = default;
};

// Whether nobody at all has a file open for writing, be it by a descriptor, a descriptor on its way
// through a socket, or a mapping: the kernel grants a lease only then. `file`: open for reading. To
// be asked in a freeze only, since a process that opens the file at that very moment would notice.
bool is_open_for_reading_only(int file);

// Files that processes have mapped so that stores reach the file, as far as a mapping's flags tell:
// those mapped shared for reading are among them.
struct SharedMappings {
  std::set<FileId> files;        // as seen inside the sandbox or outside, as the kernel has it
  bool asynchronous_io = false;  // somebody is set up for it

  bool contains(const FileId& id) const { return files.contains(id); }
};

using Processes = std::vector<std::pair<pid_t, pid_t>>;  // as Sandbox::processes()

// Of processes that stand still.
Result<SharedMappings> shared_mappings(const Processes& processes);
// Of running ones. `list` gives all of them. What is mapped from before the call until its end is
// found, however they fork meanwhile; so is a mapping that one had at its start and has given to
// a child since. Unavailable: they change too fast to tell.
Result<SharedMappings> shared_mappings(const std::function<Result<Processes>()>& list);

}  // namespace baton::agent
