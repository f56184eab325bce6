#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include "sys/process.h"
#include "sys/remote_call.h"

namespace baton::sys {
namespace {

// A process that replaces its program all the time, as a shell's children do once each: what was
// known of it a moment before (where its system call instruction is) is wrong then. The call went
// to an address where nothing was, faulted for ever, and the process got the fault in the end.
TEST(RemoteCall, AProcessThatExecsMeanwhileComesToNoHarm) {
  SpawnRequest request;
  request.program = "/bin/sh";
  const std::string again = "exec /bin/sh -c \"$0\" \"$0\"";
  request.argv = {"sh", "-c", again, again};
  const auto spawned = spawn(request);
  ASSERT_TRUE(spawned) << spawned.error().message();
  int taken = 0;
  for (int i = 0; i < 2'000; ++i) {
    auto fd = take_userfaultfd(spawned->pid);
    if (fd) {
      ++taken;
    } else {
      ASSERT_NE(fd.error().code(), ErrorCode::NotFound) << "round " << i << ": it died";
      ASSERT_NE(fd.error().code(), ErrorCode::Internal) << fd.error().message();
    }
  }
  EXPECT_GT(taken, 1'000);
  EXPECT_FALSE(spawned->pidfd.wait_ended(std::chrono::milliseconds(0)));
  ::kill(spawned->pid, SIGKILL);
  EXPECT_TRUE(spawned->pidfd.wait_ended(std::chrono::milliseconds(20'000)));
  spawned->pidfd.reap();
}

}  // namespace
}  // namespace baton::sys
