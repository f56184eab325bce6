// What `up` starts itself as: a guard that a child of `up` does not outlive it.
#pragma once

#include "base/fd.h"
#include "base/result.h"

namespace baton::up {

// Asks the kernel to kill this process when its parent ends, and waits on `go_fd` until the parent
// says go (one byte). Cancelled: the parent ended before.
Status start_under_parent(int go_fd);

// A pipe by which a parent lets a child go on.
class Gate {
 public:
  static Result<Gate> create();
  int child_end() const { return read_.get(); }
  Status open();

 private:
  Fd read_;
  Fd write_;
};

}  // namespace baton::up
