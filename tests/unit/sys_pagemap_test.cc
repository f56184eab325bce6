// Page tracking against the running kernel, in this process and in small ones started here.
#include <gtest/gtest.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <functional>

#include "sys/file.h"
#include "sys/pagemap.h"
#include "sys/proc_maps.h"
#include "sys/remote_call.h"
#include "sys/userfaultfd.h"

namespace baton::sys {
namespace {

// A child that runs `body` and is killed and reaped at the end of the test.
class Child {
 public:
  explicit Child(const std::function<void()>& body) {
    int ready[2];
    EXPECT_EQ(::pipe(ready), 0);
    pid_ = ::fork();
    if (pid_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      ready_fd_ = ready[1];
      body();
      ::_exit(0);
    }
    ::close(ready[1]);
    char byte;
    EXPECT_EQ(::read(ready[0], &byte, 1), 1) << "the child did not get ready";
    ::close(ready[0]);
  }
  ~Child() {
    ::kill(pid_, SIGKILL);
    int status;
    ::waitpid(pid_, &status, 0);
  }
  static void ready() { (void)!::write(ready_fd_, "r", 1); }
  pid_t pid() const { return pid_; }

 private:
  pid_t pid_ = 0;
  static inline int ready_fd_ = -1;
};

std::size_t open_descriptors(pid_t pid) {
  std::size_t count = 0;
  for ([[maybe_unused]] const auto& entry :
       std::filesystem::directory_iterator("/proc/" + std::to_string(pid) + "/fd"))
    ++count;
  return count;
}

class TrackingTest : public testing::Test {
 protected:
  void SetUp() override {
    TrackingAbility ability = probe_tracking();
    if (!ability.available) GTEST_SKIP() << "no page tracking here: " << ability.reason;
  }
};

TEST(ProcMaps, ParsesFlagsAndNames) {
  auto mappings = parse_mappings(
      "1000-3000 r-xp 00002000 fe:00 131      /usr/bin/a name\n"
      "7f00000000-7f00001000 rw-s 00000000 00:01 7 /memfd:x (deleted)\n"
      "7ffc000-7ffd000 ---p 00000000 00:00 0 \n"
      "ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0  [vsyscall]\n");
  ASSERT_TRUE(mappings) << mappings.error().message();
  ASSERT_EQ(mappings->size(), 4u);
  EXPECT_EQ((*mappings)[0].name, "/usr/bin/a name");
  EXPECT_EQ((*mappings)[0].offset, 0x2000u);
  EXPECT_TRUE((*mappings)[0].executable);
  EXPECT_TRUE((*mappings)[1].shared);
  EXPECT_EQ((*mappings)[2].name, "");
  EXPECT_FALSE((*mappings)[2].readable);
  EXPECT_TRUE((*mappings)[3].kernel_owned());
}

TEST(ProcMaps, RefusesNonsense) {
  for (const char* text :
       {"x\n", "1000-2000\n", "2000-1000 r--p 0 0:0 0\n", "1000-2000 r--p 0 0:0 x\n"})
    EXPECT_FALSE(parse_mappings(text)) << text;
}

TEST(ProcMaps, ReadsThisProcess) {
  auto mappings = read_mappings(::getpid());
  ASSERT_TRUE(mappings);
  const auto here = reinterpret_cast<std::uint64_t>(__builtin_frame_address(0));
  bool found = false;
  for (const Mapping& mapping : *mappings)
    found |= mapping.start <= here && here < mapping.end && mapping.name == "[stack]";
  EXPECT_TRUE(found);
}

TEST_F(TrackingTest, ScanIsLimitedAndExactAcrossManyRegions) {
  constexpr std::size_t pages = 20'000;  // every second one written: 10,000 regions
  auto* memory = static_cast<char*>(::mmap(nullptr, pages * page_bytes, PROT_READ | PROT_WRITE,
                                           MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  ASSERT_NE(memory, MAP_FAILED);
  ::madvise(memory, pages * page_bytes, MADV_NOHUGEPAGE);
  auto start = reinterpret_cast<std::uint64_t>(memory);
  for (std::size_t i = 0; i < pages; i += 2) memory[i * page_bytes] = 1;
  auto pagemap = Pagemap::open(::getpid());
  ASSERT_TRUE(pagemap);
  PageQuery query{.start = start,
                  .end = start + pages * page_bytes,
                  .any_of = page_is_present,
                  .reported = page_is_present};
  std::vector<PageRegion> regions;
  ASSERT_TRUE(pagemap->scan(query, regions));
  ASSERT_EQ(regions.size(), pages / 2);
  for (std::size_t i = 0; i < regions.size(); ++i)
    ASSERT_EQ(regions[i].start, start + 2 * i * page_bytes);
  regions.clear();
  query.pages_max = 3;
  ASSERT_TRUE(pagemap->scan(query, regions));
  EXPECT_EQ(regions.size(), 3u);
  ::munmap(memory, pages * page_bytes);
}

// In one piece, of which a call looks at a part.
TEST_F(TrackingTest, ScanIsExactBeyondWhatOneCallLooksAt) {
  constexpr std::size_t pages = 70'000;
  auto* memory = static_cast<char*>(::mmap(nullptr, pages * page_bytes, PROT_READ | PROT_WRITE,
                                           MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  ASSERT_NE(memory, MAP_FAILED);
  for (std::size_t i = 0; i < pages; ++i) memory[i * page_bytes] = 1;
  auto pagemap = Pagemap::open(::getpid());
  ASSERT_TRUE(pagemap);
  const auto start = reinterpret_cast<std::uint64_t>(memory);
  PageQuery query{.start = start,
                  .end = start + pages * page_bytes,
                  .any_of = page_is_present,
                  .reported = page_is_present,
                  .in_pieces = true};
  for (const std::uint64_t most : {std::uint64_t{0}, std::uint64_t{40'000}}) {
    query.pages_max = most;
    std::vector<PageRegion> regions;
    ASSERT_TRUE(pagemap->scan(query, regions));
    std::uint64_t end = start;
    for (const PageRegion& region : regions) {
      ASSERT_EQ(region.start, end);
      end = region.end;
    }
    EXPECT_EQ((end - start) / page_bytes, most ? most : pages);
  }
  ::munmap(memory, pages * page_bytes);
}

TEST_F(TrackingTest, TakesUserfaultfdOfAProcessInASystemCall) {
  Child child([] {
    Child::ready();
    for (;;) ::pause();
  });
  std::size_t before = open_descriptors(child.pid());
  auto fd = take_userfaultfd(child.pid());
  ASSERT_TRUE(fd) << fd.error().message();
  auto uffd = Userfaultfd::adopt(std::move(*fd));
  ASSERT_TRUE(uffd) << uffd.error().message();
  EXPECT_EQ(open_descriptors(child.pid()), before);
  auto mappings = read_mappings(child.pid());
  ASSERT_TRUE(mappings);
  for (const Mapping& mapping : *mappings) {
    if (mapping.name == "[stack]") {
      EXPECT_EQ(uffd->track(mapping.start, mapping.end), Userfaultfd::Registered::Yes);
    }
  }
}

// The interrupted call must be restarted with its own remaining time, and counting must go on.
TEST_F(TrackingTest, InterruptedSleepAndRegistersSurvive) {
  auto* shared = static_cast<volatile std::uint64_t*>(
      ::mmap(nullptr, page_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  Child child([&] {
    Child::ready();
    for (;;) {
      timespec pause{0, 1'000'000};
      if (::nanosleep(&pause, nullptr) != 0) shared[1] = shared[1] + 1;
      std::uint64_t sum = 0;
      for (std::uint64_t i = 1; i <= 10'000; ++i) sum += i * i;
      asm volatile("" : "+r"(sum));
      if (sum != 333'383'335'000) shared[2] = shared[2] + 1;
      shared[0] = shared[0] + 1;
    }
  });
  for (int i = 0; i < 200; ++i) {
    auto fd = take_userfaultfd(child.pid());
    ASSERT_TRUE(fd) << fd.error().message();
  }
  std::uint64_t before = shared[0];
  while (shared[0] < before + 20) ::usleep(1000);
  EXPECT_EQ(shared[1], 0u) << "a sleep was cut short";
  EXPECT_EQ(shared[2], 0u) << "a register was changed";
  ::munmap(const_cast<std::uint64_t*>(shared), page_bytes);
}

// A target that waits for a processor in the middle of the call is neither lost nor killed. The
// other thread takes the processor for longer than the target is given to stop, and leaves it for
// hardly longer than that takes.
TEST_F(TrackingTest, SurvivesAProcessorThatIsTakenAway) {
  cpu_set_t all, first;
  CPU_ZERO(&all);
  CPU_ZERO(&first);
  CPU_SET(0, &first);
  ::sched_getaffinity(0, sizeof all, &all);
  if (CPU_COUNT(&all) < 2 || !CPU_ISSET(0, &all)) GTEST_SKIP() << "needs two processors";
  sched_param priority{.sched_priority = 1};
  Child hog([&] {
    ::sched_setaffinity(0, sizeof first, &first);
    bool real_time = ::sched_setscheduler(0, SCHED_FIFO, &priority) == 0;
    Child::ready();
    while (real_time) {
      timespec began, now, pause{0, 200'000};
      ::clock_gettime(CLOCK_MONOTONIC, &began);
      do {
        ::clock_gettime(CLOCK_MONOTONIC, &now);
      } while ((now.tv_sec - began.tv_sec) * 1000 + (now.tv_nsec - began.tv_nsec) / 1'000'000 <
               120);
      ::nanosleep(&pause, nullptr);
    }
  });
  if (::sched_getscheduler(hog.pid()) != SCHED_FIFO) GTEST_SKIP() << "no real-time priority here";
  Child child([&] {
    ::sched_setaffinity(0, sizeof first, &first);
    Child::ready();
    for (;;) ::getppid();
  });
  int taken = 0;
  for (int i = 0; i < 40; ++i) taken += take_userfaultfd(child.pid()).has_value() ? 1 : 0;
  EXPECT_EQ(::kill(child.pid(), 0), 0);
  int status = 0;
  EXPECT_EQ(::waitpid(child.pid(), &status, WNOHANG), 0)
      << "it died of signal " << WTERMSIG(status) << " after " << taken << " calls";
}

TEST_F(TrackingTest, AHandlerOfSigtrapIsKept) {
  Child child([] {
    std::signal(SIGTRAP, [](int) { ::_exit(7); });
    Child::ready();
    for (;;) ::pause();
  });
  ASSERT_TRUE(take_userfaultfd(child.pid()));
  ::kill(child.pid(), SIGTRAP);
  siginfo_t info{};
  ASSERT_EQ(::waitid(P_PID, static_cast<id_t>(child.pid()), &info, WEXITED | WNOWAIT), 0);
  EXPECT_EQ(info.si_code, CLD_EXITED);
  EXPECT_EQ(info.si_status, 7);
}

TEST_F(TrackingTest, WorksUnderASeccompFilterThatKills) {
  Child child([] {
    sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_userfaultfd, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    sock_fprog program{std::size(filter), filter};
    if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) ::_exit(1);
    if (::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) ::_exit(1);
    Child::ready();
    for (;;) ::pause();
  });
  auto fd = take_userfaultfd(child.pid());
  EXPECT_TRUE(fd) << fd.error().message();
  EXPECT_EQ(::kill(child.pid(), 0), 0);
  int status = 0;
  EXPECT_EQ(::waitpid(child.pid(), &status, WNOHANG), 0) << "the filter killed it";
}

TEST_F(TrackingTest, StoppedByJobControlStaysStopped) {
  Child child([] {
    Child::ready();
    for (;;) ::pause();
  });
  ::kill(child.pid(), SIGSTOP);
  int status = 0;
  ASSERT_EQ(::waitpid(child.pid(), &status, WUNTRACED), child.pid());
  auto fd = take_userfaultfd(child.pid());
  EXPECT_TRUE(fd) << fd.error().message();
  auto stat = read_file("/proc/" + std::to_string(child.pid()) + "/stat");
  ASSERT_TRUE(stat);
  EXPECT_NE(stat->find(") T "), std::string::npos) << *stat;
}

TEST_F(TrackingTest, SaysWhyNot) {
  auto gone = take_userfaultfd(0x3ffffe);
  ASSERT_FALSE(gone);
  EXPECT_EQ(gone.error().code(), ErrorCode::NotFound) << gone.error().message();

  Child full([] {
    while (::dup(0) >= 0) {
    }
    Child::ready();
    for (;;) ::pause();
  });
  auto refused = take_userfaultfd(full.pid());
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), ErrorCode::Unfit) << refused.error().message();
}

}  // namespace
}  // namespace baton::sys
