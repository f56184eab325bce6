#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sys/file.h"
#include "sys/process.h"
#include "sys/remote_call.h"
#include "sys/stand_still.h"

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

// As restart_syscall() nobody knew what it was, and CRIU's next stop ended it with EINTR.
TEST(RemoteCall, TheCallInWhichItWaitsIsStillKnownAfterwards) {
  int pipe_fds[2];
  ASSERT_EQ(::pipe2(pipe_fds, O_CLOEXEC), 0);
  const pid_t pid = ::fork();
  if (pid == 0) {
    pollfd wanted{pipe_fds[0], POLLIN, 0};
    ::_exit(::poll(&wanted, 1, -1) == 1 ? 0 : 1);
  }
  const std::string poll = fmt::format("{} ", SYS_poll);
  auto waits_in = [&] { return read_file(fmt::format("/proc/{}/syscall", pid)).value_or(""); };
  while (!waits_in().starts_with(poll)) ::usleep(100);
  ASSERT_TRUE(take_userfaultfd(pid));
  std::string call;
  while ((call = waits_in()) == "running\n") ::usleep(100);
  EXPECT_TRUE(call.starts_with(poll)) << call;
  ASSERT_TRUE(while_it_stands_still(pid, []() -> Status { return {}; }));
  while ((call = waits_in()) == "running\n") ::usleep(100);
  EXPECT_TRUE(call.starts_with(poll)) << call;
  EXPECT_EQ(::write(pipe_fds[1], "x", 1), 1);
  int status = 0;
  ::waitpid(pid, &status, 0);
  EXPECT_EQ(status, 0);
  for (int end : pipe_fds) ::close(end);
}

}  // namespace
}  // namespace baton::sys
