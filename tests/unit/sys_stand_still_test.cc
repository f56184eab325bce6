#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <thread>

#include "sys/process_attributes.h"
#include "sys/stand_still.h"

namespace baton::sys {
namespace {

// A child process and counters that both sides see.
class StandStill : public testing::Test {
 protected:
  void SetUp() override {
    counters_ = static_cast<std::atomic<long>*>(
        ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    ASSERT_NE(static_cast<void*>(counters_), MAP_FAILED);
  }
  void TearDown() override {
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
      ::waitpid(pid_, nullptr, 0);
    }
    ::munmap(counters_, 4096);
  }
  void start(const std::function<void()>& body) {
    pid_ = ::fork();
    if (pid_ != 0) return;
    body();
    ::_exit(0);
  }
  void await_more(int counter) const {
    for (const long before = counters_[counter]; counters_[counter] == before;) ::usleep(100);
  }
  // Threads that begin threads, each of which counts for a moment.
  void start_restless_threads() {
    start([this] {
      for (int i = 0; i < 3; ++i)
        std::thread([this] {
          for (;;) {
            std::thread([this] { ++counters_[0]; }).join();
            ++counters_[1];
          }
        }).detach();
      for (;;) ::pause();
    });
    await_more(1);
  }

  std::atomic<long>* counters_ = nullptr;
  pid_t pid_ = 0;
};

TEST_F(StandStill, NoThreadDoesAnythingMeanwhile) {
  start_restless_threads();
  for (int round = 0; round < 200; ++round) {
    auto done = while_it_stands_still(pid_, [&]() -> Status {
      const long begun = counters_[0], ended = counters_[1];
      for (int i = 0; i < 3; ++i) ::sched_yield();
      EXPECT_EQ(counters_[0], begun);
      EXPECT_EQ(counters_[1], ended);
      return {};
    });
    ASSERT_TRUE(done) << done.error().message();
  }
  await_more(1);
}

TEST_F(StandStill, SignalsThatComeMeanwhileAreDeliveredOnce) {
  static std::atomic<long>* handled;
  handled = &counters_[2];
  start([this] {
    ::signal(SIGUSR1, [](int) { ++*handled; });
    counters_[0] = 1;
    for (;;) ++counters_[1];
  });
  await_more(1);
  for (int round = 1; round <= 500; ++round) {
    // One is on its way when the process is stopped, or comes as it is.
    ASSERT_EQ(::kill(pid_, SIGUSR1), 0);
    auto done = while_it_stands_still(pid_, []() -> Status { return {}; });
    ASSERT_TRUE(done) << done.error().message();
    await_more(1);
    ASSERT_EQ(counters_[2], round);
  }
}

TEST_F(StandStill, AStoppedProcessStaysStopped) {
  start([this] {
    for (;;) ++counters_[1];
  });
  await_more(1);
  ::kill(pid_, SIGSTOP);
  int status = 0;
  ASSERT_EQ(::waitpid(pid_, &status, WUNTRACED), pid_);
  const long before = counters_[1];
  ASSERT_TRUE(while_it_stands_still(pid_, []() -> Status { return {}; }));
  // It wakes up for a moment, inside the kernel, to be stopped by job control again.
  while (status_field(pid_, "State").value_or("?").front() != 'T') ::usleep(100);
  EXPECT_EQ(counters_[1], before);
  ::kill(pid_, SIGCONT);
  await_more(1);
}

TEST_F(StandStill, AnErrorOfTheWorkIsReturnedAndTheProcessGoesOn) {
  start_restless_threads();
  auto done = while_it_stands_still(pid_, [] { return fail(ErrorCode::NoSpace, "full"); });
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().code(), ErrorCode::NoSpace);
  await_more(1);
}

TEST_F(StandStill, AProcessKilledMeanwhileOrBeforeHasEnded) {
  start_restless_threads();
  auto done = while_it_stands_still(pid_, [&]() -> Status {
    ::kill(pid_, SIGKILL);
    return {};
  });
  EXPECT_TRUE(done);
  done = while_it_stands_still(pid_, [&]() -> Status {
    ADD_FAILURE() << "it ended";
    return {};
  });
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().code(), ErrorCode::NotFound);
}

TEST_F(StandStill, OneThatIsTracedIsLeftAlone) {
  start_restless_threads();
  ASSERT_EQ(::ptrace(PTRACE_SEIZE, pid_, 0, 0), 0);
  auto done = while_it_stands_still(pid_, [&]() -> Status {
    ADD_FAILURE() << "it is traced";
    return {};
  });
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().code(), ErrorCode::Unavailable);
  await_more(1);
}

// Its parent, in vfork(), can't be stopped; the other threads must not wait for that either.
TEST_F(StandStill, OneThatWaitsInsideTheKernelIsNotWaitedForLong) {
  start([this] {
    std::thread([this] {
      for (;;) ++counters_[1];
    }).detach();
    auto child = [](void* pid) -> int {
      *static_cast<std::atomic<long>*>(pid) = ::getpid();
      for (;;) ::pause();
    };
    static char stack[64 << 10];
    ::clone(child, stack + sizeof stack, CLONE_VM | CLONE_VFORK | SIGCHLD, &counters_[2]);
  });
  await_more(1);
  while (counters_[2] == 0) ::usleep(100);
  auto done = while_it_stands_still(pid_, [&]() -> Status { return {}; });
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().code(), ErrorCode::Unavailable) << done.error().message();
  await_more(1);
  ::kill(static_cast<pid_t>(counters_[2]), SIGKILL);
}

}  // namespace
}  // namespace baton::sys
