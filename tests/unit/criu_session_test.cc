#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

#include "base/clock.h"
#include "criu/session.h"

namespace baton::criu {
namespace {

// What it forked may live on and hold the socket.
TEST(Session, NoticesTheWorkersDeath) {
  int sockets[2], grandchild[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets), 0);
  ASSERT_EQ(::pipe(grandchild), 0);
  pid_t worker = ::fork();
  if (worker == 0) {
    pid_t helper = ::fork();
    if (helper == 0)
      for (;;) ::pause();
    ::_exit(::write(grandchild[1], &helper, sizeof helper) == sizeof helper ? 0 : 1);
  }
  pid_t helper = 0;
  ASSERT_EQ(::read(grandchild[0], &helper, sizeof helper), static_cast<ssize_t>(sizeof helper));
  Fd pidfd(static_cast<int>(::syscall(SYS_pidfd_open, worker, 0)));
  ::close(sockets[1]);
  auto began_ms = boot_time_ms();
  {
    Session session(Fd(sockets[0]), std::move(pidfd));
    auto version = session.version();
    ASSERT_FALSE(version);
    EXPECT_EQ(version.error().code(), ErrorCode::Internal) << version.error().message();
    EXPECT_TRUE(session.worker_died());
  }
  EXPECT_LT(boot_time_ms() - began_ms, 5'000);
  ::kill(helper, SIGKILL);
  ::waitpid(worker, nullptr, 0);
  ::close(grandchild[0]);
  ::close(grandchild[1]);
}

}  // namespace
}  // namespace baton::criu
