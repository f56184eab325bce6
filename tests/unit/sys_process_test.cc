#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "sys/file.h"
#include "sys/process.h"

namespace baton::sys {
namespace {

struct Pipe {
  Pipe() {
    int fds[2];
    EXPECT_EQ(::pipe2(fds, O_CLOEXEC), 0);
    read = Fd(fds[0]);
    write = Fd(fds[1]);
  }
  // What was written, once nobody can write any more.
  std::string content() {
    write.reset();
    std::string text;
    char buffer[4096];
    for (ssize_t count; (count = ::read(read.get(), buffer, sizeof buffer)) > 0;)
      text.append(buffer, static_cast<std::size_t>(count));
    return text;
  }
  Fd read, write;
};

SpawnRequest shell(const std::string& script, const Pipe& out) {
  SpawnRequest request;
  request.program = "/bin/sh";
  request.argv = {"sh", "-c", script};
  request.fds = {{out.write.get(), 1}};
  return request;
}

void finish(const Spawned& spawned) {
  EXPECT_TRUE(spawned.pidfd.wait_ended(std::chrono::milliseconds(20'000)));
  spawned.pidfd.reap();
}

TEST(Spawn, PassesArgumentsAndEnvironment) {
  Pipe out;
  SpawnRequest request = shell("printf '<%s>' \"$@\" \"$A\"; echo $(env | grep -c LEAK)", out);
  request.argv.insert(request.argv.end(), {"sh", "a b", "", "new\nline"});
  request.env = {"A=it's", "PATH=/usr/bin:/bin"};
  ::setenv("LEAK", "1", 1);
  const auto spawned = spawn(request);
  ::unsetenv("LEAK");
  ASSERT_TRUE(spawned) << spawned.error().message();
  EXPECT_EQ(out.content(), "<a b><><new\nline><it's>0\n");
  finish(*spawned);
}

TEST(Spawn, DescriptorsMayChangePlaces) {
  Pipe out, a, b;
  SpawnRequest request = shell("echo to-a >&" + std::to_string(b.write.get()) + "; echo to-b >&" +
                                   std::to_string(a.write.get()),
                               out);
  request.fds.emplace_back(a.write.get(), b.write.get());
  request.fds.emplace_back(b.write.get(), a.write.get());
  // Shells know descriptors of one digit only.
  if (a.write.get() > 9 || b.write.get() > 9) GTEST_SKIP() << "too many descriptors are open";
  const auto spawned = spawn(request);
  ASSERT_TRUE(spawned);
  finish(*spawned);
  EXPECT_EQ(a.content(), "to-a\n");
  EXPECT_EQ(b.content(), "to-b\n");
}

TEST(Spawn, MissingProgramIsAnErrorAndLeavesNoChild) {
  SpawnRequest request;
  request.program = "/no/such/program";
  request.argv = {"x"};
  const auto spawned = spawn(request);
  ASSERT_FALSE(spawned);
  EXPECT_EQ(spawned.error().code(), ErrorCode::NotFound);
  EXPECT_EQ(spawned.error().message(), "start /no/such/program: No such file or directory");
  EXPECT_EQ(::waitpid(-1, nullptr, WNOHANG), -1);
  EXPECT_EQ(errno, ECHILD);
}

TEST(Spawn, SignalsAreDefaultAndUnblocked) {
  Pipe out;
  ::signal(SIGUSR1, SIG_IGN);
  sigset_t blocked;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGTERM);
  ::pthread_sigmask(SIG_BLOCK, &blocked, nullptr);
  const auto spawned = spawn(shell("grep -E 'SigBlk|SigIgn' /proc/self/status", out));
  sigset_t now;
  ::pthread_sigmask(SIG_UNBLOCK, &blocked, &now);
  ::signal(SIGUSR1, SIG_DFL);
  ASSERT_TRUE(spawned);
  EXPECT_EQ(out.content(), "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n");
  EXPECT_EQ(sigismember(&now, SIGTERM), 1) << "the caller's own mask is unchanged";
  EXPECT_EQ(sigismember(&now, SIGINT), 0);
  finish(*spawned);
}

// Signals 32 and 33 are libc's own, and its sigaction() won't touch them; whoever started us may
// have ignored them all the same.
TEST(Spawn, SignalsOfLibcAreDefaultToo) {
  struct {
    void (*handler)(int);
    unsigned long flags;
    void (*restorer)();
    unsigned long mask;
  } ignore{SIG_IGN, 0, nullptr, 0}, before{};
  ASSERT_EQ(::syscall(SYS_rt_sigaction, 32, &ignore, &before, sizeof ignore.mask), 0);
  Pipe out;
  const auto spawned = spawn(shell("grep SigIgn /proc/self/status", out));
  ::syscall(SYS_rt_sigaction, 32, &before, nullptr, sizeof before.mask);
  ASSERT_TRUE(spawned);
  EXPECT_EQ(out.content(), "SigIgn:\t0000000000000000\n");
  finish(*spawned);
}

TEST(Spawn, APriorityThatIsOursAloneIsNotHandedOn) {
  for (const auto& [ours, theirs] : {std::pair(-10, "0"), std::pair(0, "0"), std::pair(7, "7")}) {
    Pipe out;
    std::thread([&, ours = ours] {
      ASSERT_EQ(::setpriority(PRIO_PROCESS, static_cast<id_t>(::gettid()), ours), 0);
      const auto spawned = spawn(shell("cut -d' ' -f19 /proc/self/stat", out));
      ASSERT_TRUE(spawned) << spawned.error().message();
      finish(*spawned);
    }).join();
    EXPECT_EQ(out.content(), std::string(theirs) + "\n") << "of a thread at " << ours;
  }
}

TEST(Spawn, WorksWhileOtherThreadsAllocateAndSpawn) {
  std::atomic<bool> stop = false;
  std::atomic<int> failures = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 2; ++i)
    threads.emplace_back([&] {
      while (!stop) std::vector<std::string>(100, std::string(1000, 'x')).clear();
    });
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&] {
      for (int n = 0; n < 25; ++n) {
        SpawnRequest request;
        request.program = "/bin/true";
        request.argv = {"true"};
        const auto spawned = spawn(request);
        if (!spawned || !spawned->pidfd.wait_ended(std::chrono::milliseconds(20'000)))
          ++failures;
        else
          spawned->pidfd.reap();
      }
    });
  for (std::size_t i = 2; i < threads.size(); ++i) threads[i].join();
  stop = true;
  threads[0].join();
  threads[1].join();
  EXPECT_EQ(failures, 0);
}

TEST(Spawn, NamespacesAndTheirPids) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root: it makes a pid namespace";
  Pipe out;
  SpawnRequest request = shell("echo $$; exec sleep 100", out);
  request.clone_flags = CLONE_NEWPID;
  const auto spawned = spawn(request);
  ASSERT_TRUE(spawned) << spawned.error().message();
  char text[16] = {};
  ASSERT_GT(::read(out.read.get(), text, sizeof text - 1), 0);
  EXPECT_STREQ(text, "1\n");
  const auto pids = namespace_pids(spawned->pid);
  ASSERT_TRUE(pids);
  EXPECT_EQ(pids->front(), spawned->pid);
  EXPECT_EQ(pids->back(), 1);
  EXPECT_TRUE(spawned->pidfd.signal(SIGKILL));
  finish(*spawned);
  EXPECT_FALSE(namespace_pids(spawned->pid));
}

TEST(PidFd, SeesTheEndAndTakesTheZombie) {
  Pipe out;
  const auto spawned = spawn(shell("exec sleep 100", out));
  ASSERT_TRUE(spawned);
  EXPECT_FALSE(spawned->pidfd.wait_ended(std::chrono::milliseconds(20)));
  spawned->pidfd.reap();  // too early: must do nothing
  EXPECT_TRUE(spawned->pidfd.signal(SIGTERM));
  EXPECT_TRUE(spawned->pidfd.wait_ended(std::nullopt));
  EXPECT_EQ(::kill(spawned->pid, 0), 0) << "a zombie until it is reaped";
  spawned->pidfd.reap();
  EXPECT_EQ(::kill(spawned->pid, 0), -1);
  EXPECT_EQ(spawned->pidfd.signal(SIGTERM).error().code(), ErrorCode::NotFound);
  EXPECT_EQ(PidFd::open(spawned->pid).error().code(), ErrorCode::NotFound);
}

TEST(Process, StartTimeOutlastsOddNames) {
  const auto here = start_time_ticks(::getpid());
  ASSERT_TRUE(here);
  Pipe out;
  const auto spawned = spawn(shell("printf 'a) 1 (b' >/proc/self/comm; echo; exec cat", out));
  ASSERT_TRUE(spawned);
  char newline = 0;
  ASSERT_EQ(::read(out.read.get(), &newline, 1), 1);
  const auto later = start_time_ticks(spawned->pid);
  ASSERT_TRUE(later) << later.error().message();
  EXPECT_GE(*later, *here);
  EXPECT_TRUE(spawned->pidfd.signal(SIGKILL));
  finish(*spawned);
}

TEST(Process, TreeHasAllDescendantsParentsFirst) {
  Pipe out;
  const auto spawned = spawn(shell("sh -c 'sleep 100 & echo x; wait' & wait", out));
  ASSERT_TRUE(spawned);
  char x = 0;
  ASSERT_EQ(::read(out.read.get(), &x, 1), 1);
  const auto tree = process_tree(spawned->pid);
  EXPECT_EQ(tree.size(), 3u);
  EXPECT_EQ(tree.front(), spawned->pid);
  EXPECT_EQ(child_processes(spawned->pid), (std::vector<pid_t>{tree.at(1)}));
  for (const pid_t pid : tree) ::kill(pid, SIGKILL);
  finish(*spawned);
}

}  // namespace
}  // namespace baton::sys
