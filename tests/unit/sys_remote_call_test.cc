#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>
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

// The parent in vfork() sleeps as one whose page comes from a slow disk, until its child ends.
TEST(RemoteCall, AProcessThatIsBusyInTheKernelForAMomentIsWaitedFor) {
  int pipe_fds[2];
  ASSERT_EQ(::pipe2(pipe_fds, O_CLOEXEC), 0);
  const pid_t pid = ::fork();
  if (pid == 0) {
    auto child = [](void* fd) -> int {
      if (::write(*static_cast<int*>(fd), "x", 1) != 1) return 1;
      ::usleep(30'000);
      return 0;
    };
    static char stack[64 << 10];
    ::clone(child, stack + sizeof stack, CLONE_VM | CLONE_VFORK | SIGCHLD, &pipe_fds[1]);
    for (;;) ::pause();
  }
  char byte;
  ASSERT_EQ(::read(pipe_fds[0], &byte, 1), 1);
  auto fd = take_userfaultfd(pid);
  EXPECT_TRUE(fd) << fd.error().message();
  ::kill(pid, SIGKILL);
  ::waitpid(pid, nullptr, 0);
  for (int end : pipe_fds) ::close(end);
}

}  // namespace
}  // namespace baton::sys
