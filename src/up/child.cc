#include "up/child.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <csignal>

namespace baton::up {

Status start_under_parent(int go_fd) {
  const Fd go(go_fd);
  // In this order: a parent that ends before the prctl closes the pipe unwritten.
  if (::prctl(PR_SET_PDEATHSIG, SIGKILL) != 0) return fail_errno("prctl");
  char byte = 0;
  ssize_t count = 0;
  while ((count = ::read(go.get(), &byte, 1)) < 0 && errno == EINTR) {
  }
  if (count != 1) return fail(ErrorCode::Cancelled, "the cluster ended while this node started");
  return {};
}

Result<Gate> Gate::create() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return fail_errno("pipe");
  Gate gate;
  gate.read_ = Fd(ends[0]);
  gate.write_ = Fd(ends[1]);
  return gate;
}

Status Gate::open() {
  if (::write(write_.get(), "g", 1) != 1) return fail_errno("start a child");
  return {};
}

}  // namespace baton::up
