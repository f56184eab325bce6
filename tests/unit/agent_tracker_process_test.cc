// Kinds of processes and what becomes of them.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>

#include "agent_tracked_process_fixture.h"

namespace baton::agent {
namespace {

using testing::HasSubstr;

TEST_F(TrackedProcess, DroppedMovedAndNewMemory) {
  pid_t pid = start([&] {
    *step_ = 1;
    wait_for(2);
    ::madvise(region_, 20 * page_bytes, MADV_DONTNEED);
    region_[4 * page_bytes] = 77;
    region_[100 * page_bytes] = 78;
    (void)*static_cast<volatile char*>(region_ + 6 * page_bytes);  // the zero page
    ::munmap(region_ + 200 * page_bytes, 50 * page_bytes);
    ::mprotect(region_ + 40 * page_bytes, 10 * page_bytes, PROT_NONE);
    *step_ = 3;
    for (;;) ::pause();
  });
  refresh({pid});
  ASSERT_TRUE(tracker_->precopy());
  auto before = freeze({pid});
  ASSERT_EQ(before.size(), 1u);
  EXPECT_EQ(captured_region_pages(before[0]).size(), region_pages / 2);
  say(2);
  await(3);
  auto after = freeze({pid});
  ASSERT_EQ(after.size(), 1u);
  std::set<std::size_t> expected = {4};
  for (std::size_t i = 20; i < region_pages; i += 2)
    if (i < 200 || i >= 250) expected.insert(i);
  EXPECT_EQ(captured_region_pages(after[0]), expected);
}

TEST_F(TrackedProcess, HugePages) {
  constexpr std::size_t huge = 2u << 20;
  pid_t pid = start([&] {
    char* memory = static_cast<char*>(
        ::mmap(nullptr, 8 * huge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    ::madvise(memory, 8 * huge, MADV_HUGEPAGE);
    for (std::size_t at = 0; at < 8 * huge; at += page_bytes) memory[at] = 1;
    *step_ = 1;
    wait_for(2);
    memory[3 * huge + 5] = 2;
    ::madvise(memory + 5 * huge + page_bytes, page_bytes, MADV_DONTNEED);
    *step_ = 3;
    for (;;) ::pause();
  });
  refresh({pid});
  auto stats = tracker_->precopy();
  ASSERT_TRUE(stats);
  auto all = freeze({pid});
  say(2);
  await(3);
  auto less = freeze({pid});
  ASSERT_EQ(less.size(), 1u);
  EXPECT_EQ(less[0].pages.pages() + 1, all[0].pages.pages());
}

TEST_F(TrackedProcess, ExecStartsAfresh) {
  pid_t pid = start([&] {
    *step_ = 1;
    wait_for(2);
    ::execl("/bin/sleep", "sleep", "1000", nullptr);
  });
  refresh({pid});
  ASSERT_TRUE(tracker_->precopy());
  say(2);
  while (fs::read_symlink(fmt::format("/proc/{}/exe", pid)).filename() !=
         fs::canonical("/bin/sleep").filename())
    ::usleep(1000);
  EXPECT_TRUE(freeze({pid}).empty()) << "CRIU saw all of the new program, we know nothing of it";
  refresh({pid});
  EXPECT_EQ(report_of(pid).tier, MemoryTier::Tracked) << report_of(pid).reason;
  ASSERT_TRUE(tracker_->precopy());
  EXPECT_EQ(freeze({pid}).size(), 1u);
}

// As after vfork: two processes, one memory; then the second one gets its own by exec.
TEST_F(TrackedProcess, SharedMemoryIsTrackedOnceAndPartsWithExec) {
  int* other = static_cast<int*>(
      ::mmap(nullptr, page_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  pid_t pid = start([&] {
    static char stack[64 << 10];
    auto body = [](void* argument) -> int {
      auto* step = static_cast<volatile int*>(argument);
      while (*step != 2) ::usleep(500);
      ::execl("/bin/sleep", "sleep", "1000", nullptr);
      return 1;
    };
    *other = ::clone(body, stack + sizeof stack, CLONE_VM | CLONE_PARENT | SIGCHLD,
                     const_cast<int*>(step_));
    *step_ = 1;
    for (;;) ::pause();
  });
  children_.push_back(*other);
  refresh({pid, *other});
  EXPECT_EQ(report_of(*other).tier, MemoryTier::Tracked) << report_of(*other).reason;
  ASSERT_TRUE(tracker_->precopy());
  auto both = freeze({pid, *other});
  ASSERT_EQ(both.size(), 2u);
  EXPECT_EQ(both[0].space, both[1].space);
  EXPECT_EQ(both[0].pages.runs(), both[1].pages.runs());
  say(2);
  while (fs::read_symlink(fmt::format("/proc/{}/exe", *other)) ==
         fs::read_symlink(fmt::format("/proc/{}/exe", pid)))
    ::usleep(1000);
  for (const auto& order : {std::vector{pid, *other}, std::vector{*other, pid}}) {
    auto one = freeze(order);
    ASSERT_EQ(one.size(), 1u);
    EXPECT_EQ(one[0].pid, pid);
    EXPECT_EQ(captured_region_pages(one[0]).size(), region_pages / 2);
  }
}

TEST_F(TrackedProcess, ForkedChildrenAreTrackedFromTheNextRefreshOn) {
  pid_t pid = start([&] {
    *step_ = 1;
    wait_for(2);
    if (::fork() == 0) {
      region_[0] = 99;
      *step_ = 3;
    }
    for (;;) ::pause();
  });
  refresh({pid});
  ASSERT_TRUE(tracker_->precopy());
  say(2);
  await(3);
  auto tree = sys::process_tree(pid);
  ASSERT_EQ(tree.size(), 2u);
  EXPECT_EQ(freeze(tree).size(), 1u) << "the child is CRIU's as yet";
  refresh(tree);
  ASSERT_TRUE(tracker_->precopy());
  EXPECT_EQ(freeze(tree).size(), 2u);
  ::kill(tree[1], SIGKILL);
}

TEST_F(TrackedProcess, FilterThatKillsUserfaultfdIsNoObstacle) {
  pid_t pid = start([&] {
    sock_filter filter[] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
                            BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_userfaultfd, 0, 1),
                            BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
                            BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
    sock_fprog program{std::size(filter), filter};
    ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
    *step_ = 1;
    for (;;) ::pause();
  });
  refresh({pid});
  EXPECT_EQ(report_of(pid).tier, MemoryTier::Tracked) << report_of(pid).reason;
  ASSERT_TRUE(tracker_->precopy());
  EXPECT_EQ(freeze({pid}).size(), 1u);
}

TEST_F(TrackedProcess, DirectIoIsScannedInTheFreezeOnly) {
  auto file = directory_ / "direct";
  ASSERT_TRUE(sys::write_file_durable(file, std::string(page_bytes, 'x')));
  pid_t pid = start([&] {
    if (::open(file.c_str(), O_RDONLY | O_DIRECT) < 0) ::_exit(1);
    *step_ = 1;
    for (;;) ::pause();
  });
  refresh({pid});
  auto stats = tracker_->precopy();
  ASSERT_TRUE(stats);
  EXPECT_EQ(stats->pages_per_round, std::vector<std::uint64_t>{0});
  auto memory = freeze({pid});
  ASSERT_EQ(memory.size(), 1u);
  EXPECT_EQ(captured_region_pages(memory[0]).size(), region_pages / 2);
}

TEST_F(TrackedProcess, TracedProcessIsLeftToCriuWithTheReason) {
  pid_t pid = start([&] {
    *step_ = 1;
    for (;;) ::pause();
  });
  pid_t tracer = ::fork();
  if (tracer == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ::ptrace(PTRACE_SEIZE, pid, 0, 0);
    *step_ = 2;
    for (;;) ::pause();
  }
  children_.insert(children_.begin(), tracer);
  await(2);
  refresh({pid});
  EXPECT_EQ(report_of(pid).tier, MemoryTier::Full);
  EXPECT_THAT(report_of(pid).reason, HasSubstr("traced"));
  ASSERT_TRUE(tracker_->precopy());
  auto memory = tracker_->copy_rest(std::vector{pid});
  ASSERT_TRUE(memory);
  EXPECT_TRUE(memory->empty());
}

TEST_F(TrackedProcess, EndedProcessesDoNoHarm) {
  auto idle = [&] {
    *step_ = 1;
    for (;;) ::pause();
  };
  pid_t first = start(idle), second = start(idle);
  refresh({first, second});
  ::kill(first, SIGKILL);
  siginfo_t info;
  ::waitid(P_PID, static_cast<id_t>(first), &info, WEXITED | WNOWAIT);  // a zombie
  ASSERT_TRUE(tracker_->precopy());
  auto memory = freeze({first, second});
  ASSERT_EQ(memory.size(), 1u);
  EXPECT_EQ(memory[0].pid, second);
  refresh({first, second, 0x3ffffe});
  EXPECT_EQ(tracker_->report().size(), 1u);
}

}  // namespace
}  // namespace baton::agent
