// Tells which of a sandbox's private files were written to since a watch was put on them.
//
// What a watch (inotify) sees, on an overlay and on a tmpfs, is every write by a system call, when
// it is done (write, truncate, fallocate, splice, copy_file_range …), and the end of each
// descriptor that could write. It has to be put on the file as the job sees it: the overlay's
// inode, not that of its upper layer. It does not see stores through a mapping, nor asynchronous
// I/O; writers.h is about those.
#pragma once

#include <functional>

#include "base/fd.h"
#include "base/result.h"

namespace baton::agent {

class FileWatch {
 public:
  static Result<FileWatch> create();

  // Reports once, then the watch is gone. Two calls for the same inode give the same number as long
  // as it has not reported. NoSpace: no more watches for this user.
  Result<int> add(int file);
  void remove(int watch);
  // Calls `changed` with each watch that has reported since. False: reports may have been lost, so
  // nothing is known of any file.
  bool drain(const std::function<void(int watch)>& changed);

 private:
  explicit FileWatch(Fd inotify) : inotify_(std::move(inotify)) {}
  Fd inotify_;
};

}  // namespace baton::agent
