// Kinds of memory and what programs do to it.
#include <grp.h>
#include <sys/shm.h>
#include <sys/syscall.h>

#include <atomic>

#include "agent_tracked_process_fixture.h"
#include "base/clock.h"

namespace baton::agent {
namespace {

// So that mappings come to lie side by side.
char* reserve(std::size_t pages) {
  return static_cast<char*>(::mmap(nullptr, pages * page_bytes, PROT_NONE,
                                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
}
char* map_at(char* address, std::size_t pages) {
  return static_cast<char*>(::mmap(address, pages * page_bytes, PROT_READ | PROT_WRITE,
                                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
}
void fill(char* memory, std::size_t pages, char value) {
  for (std::size_t i = 0; i < pages; ++i) memory[i * page_bytes] = value;
}
std::uint64_t captured_in(const FrozenMemory& process, const void* start, std::size_t pages) {
  PageSet range;
  auto at = reinterpret_cast<std::uint64_t>(start);
  range.append(at, at + pages * page_bytes);
  return intersect(process.pages, range).pages();
}

TEST_F(TrackedProcess, MovedByMremap) {
  char* target = reserve(region_pages);
  pid_t pid = start([&] {
    *step_ = 1;
    wait_for(2);
    ::mremap(region_, region_pages * page_bytes, region_pages * page_bytes,
             MREMAP_MAYMOVE | MREMAP_FIXED, target);
    target[3 * page_bytes] = 88;
    *step_ = 3;
    for (;;) ::pause();
  });
  refresh({pid});
  ASSERT_TRUE(tracker_->precopy());
  say(2);
  await(3);
  EXPECT_EQ(captured_in(freeze({pid})[0], target, region_pages), 0u) << "CRIU's as yet";
  refresh({pid});
  ASSERT_TRUE(tracker_->precopy());
  auto memory = freeze({pid});
  EXPECT_EQ(captured_in(memory[0], target, region_pages), region_pages / 2 + 1);
  EXPECT_EQ(captured_in(memory[0], region_, region_pages), 0u);
  ::munmap(target, region_pages * page_bytes);
}

// A mapping that grew between being listed and being registered was split in two by the kernel, and
// the program's mremap of all of it failed.
TEST_F(TrackedProcess, MappingsThatChangeWhileTheyAreRegisteredStayWhole) {
  constexpr std::size_t pages = 20;
  char* place = reserve(2 * pages);
  char* target = reserve(2 * pages);
  auto* shared = static_cast<std::atomic<int>*>(
      ::mmap(nullptr, page_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  std::atomic<int>&failed = shared[0], &moved = shared[1];
  pid_t pid = start([&] {
    *step_ = 1;
    for (;;) {
      map_at(place + page_bytes, pages);
      ::munmap(place, (2 + pages) * page_bytes);
      map_at(place, pages + 2);
      fill(place, pages + 2, 1);
      if (::mremap(place, (pages + 2) * page_bytes, (pages + 3) * page_bytes,
                   MREMAP_MAYMOVE | MREMAP_FIXED, target) == MAP_FAILED)
        failed = errno;
      ++moved;
    }
  });
  while (moved < 40'000 && failed == 0) refresh({pid});
  EXPECT_EQ(failed, 0) << strerror(failed) << " after " << moved << " moves";
  EXPECT_EQ(report_of(pid).tier, MemoryTier::Tracked) << report_of(pid).reason;
  for (char* memory : {place, target}) ::munmap(memory, 2 * pages * page_bytes);
  ::munmap(shared, page_bytes);
}

// The kernel takes the registration from all of what a moved mapping merges with, and leaves marks
// of protection in its pages that outlast writes.
TEST_F(TrackedProcess, MergedByMremapIsCopiedAnew) {
  constexpr std::size_t pages = 50;
  char* place = reserve(4 * pages);
  pid_t pid = start([&] {
    map_at(place + pages * page_bytes, pages);
    fill(place + pages * page_bytes, pages, 1);
    // Nothing was written here: that it is elsewhere does not keep it from merging.
    void* other = ::mmap(nullptr, pages * page_bytes, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    *step_ = 1;
    wait_for(2);
    ::mremap(other, pages * page_bytes, pages * page_bytes, MREMAP_MAYMOVE | MREMAP_FIXED,
             place + 2 * pages * page_bytes);
    fill(place + pages * page_bytes, pages, 2);
    *step_ = 3;
    for (;;) ::pause();
  });
  refresh({pid});
  ASSERT_TRUE(tracker_->precopy());
  freeze({pid});
  say(2);
  await(3);
  freeze({pid});
  refresh({pid});
  ASSERT_TRUE(tracker_->precopy());
  auto memory = freeze({pid});  // compares
  EXPECT_EQ(captured_in(memory[0], place + pages * page_bytes, pages), pages);
  ::munmap(place, 4 * pages * page_bytes);
}

TEST_F(TrackedProcess, StackThatGrows) {
  constexpr std::size_t depth = 100;
  pid_t pid = start([&] {
    std::function<void(std::size_t)> recurse = [&](std::size_t left) {
      volatile char frame[page_bytes];
      frame[0] = static_cast<char>(left);
      if (left > 0) return recurse(left - 1);
      *step_ = frame[0] + 3;
      for (;;) ::pause();
    };
    *step_ = 1;
    wait_for(2);
    recurse(depth);
  });
  refresh({pid});
  ASSERT_TRUE(tracker_->precopy());
  auto before = freeze({pid})[0].pages.pages();
  say(2);
  await(3);
  EXPECT_GE(freeze({pid})[0].pages.pages(), before + depth - 40) << "the mapping grew with it";
}

TEST_F(TrackedProcess, PrivateFileMappingIsCapturedWhereWritten) {
  constexpr std::size_t pages = 20;
  auto path = directory_ / "file";
  ASSERT_TRUE(sys::write_file_durable(path, std::string(pages * page_bytes, 'x')));
  Fd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  auto* mapped = static_cast<char*>(
      ::mmap(nullptr, pages * page_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE, file.get(), 0));
  pid_t pid = start([&] {
    for (std::size_t i = 0; i < pages; ++i)
      (void)*static_cast<volatile char*>(mapped + i * page_bytes);
    fill(mapped, 5, 1);
    *step_ = 1;
    wait_for(2);
    fill(mapped + 10 * page_bytes, 3, 2);
    ::madvise(mapped, 2 * page_bytes, MADV_DONTNEED);  // the file's content again
    *step_ = 3;
    for (;;) ::pause();
  });
  refresh({pid});
  ASSERT_TRUE(tracker_->precopy());
  EXPECT_EQ(captured_in(freeze({pid})[0], mapped, pages), 5u);
  say(2);
  await(3);
  EXPECT_EQ(captured_in(freeze({pid})[0], mapped, pages), 6u);
  ::munmap(mapped, pages * page_bytes);
}

// A page of a private file mapping that is dropped and written again is a copy of the file's page
// before it is written to, and as protected as the one that was dropped.
TEST_F(TrackedProcess, AWriteThatWasStoppedHalfwayToADroppedFilePage) {
  auto path = directory_ / "file";
  ASSERT_TRUE(sys::write_file_durable(path, std::string(page_bytes, 'x')));
  Fd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  auto* mapped = static_cast<char*>(
      ::mmap(nullptr, page_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE, file.get(), 0));
  constexpr int rounds_max = 3000, halfway_enough = 3;
  pid_t pid = start([&] {
    for (int step = 1; step < 2 * rounds_max; step += 2) {
      std::fill_n(mapped, page_bytes, 'w');
      *step_ = step;
      while (*step_ != step + 1) {
      }
      ::madvise(mapped, page_bytes, MADV_DONTNEED);
      *static_cast<volatile char*>(mapped) = 'w';
    }
    for (;;) ::pause();
  });
  const auto address = reinterpret_cast<std::uint64_t>(mapped);
  auto stopped_halfway = [&] {
    std::vector<sys::PageRegion> regions;
    auto pagemap = sys::Pagemap::open(pid);
    EXPECT_TRUE(pagemap &&
                pagemap->scan({.start = address,
                               .end = address + page_bytes,
                               .required_unset = sys::page_is_file | sys::page_is_written,
                               .any_of = sys::page_is_present,
                               .reported = sys::page_is_present},
                              regions));
    std::string content(1, 0);
    auto memory = sys::open_file(fmt::format("/proc/{}/mem", pid), O_RDONLY);
    EXPECT_TRUE(memory && sys::pread_all(memory->get(), content.data(), 1, address));
    return !regions.empty() && content == "x";
  };
  int halfway = 0, round = 0;
  for (; round < rounds_max - 1 && halfway < halfway_enough && !HasFailure(); ++round) {
    await(2 * round + 1);
    refresh({pid});
    ASSERT_TRUE(tracker_->precopy());
    say(2 * round + 2);
    for (const auto until = boot_time_ns() + round % 64 * 100; boot_time_ns() < until;) {
    }
    ::kill(pid, SIGSTOP);
    while (!sys::status_field(pid, "State").value_or("Z").starts_with("T")) ::usleep(100);
    halfway += stopped_halfway();
    freeze({pid});  // compares
  }
  std::printf("stopped halfway %d times in %d rounds\n", halfway, round);
  ::munmap(mapped, page_bytes);
  if (halfway == 0) GTEST_SKIP() << "it was never stopped halfway";
}

// Its content belongs to no single process: CRIU dumps it, and it must not be hidden from CRIU.
TEST_F(TrackedProcess, SharedMemoryIsLeftToCriu) {
  constexpr std::size_t pages = 10, bytes = pages * page_bytes;
  Fd memfd(::memfd_create("tracked", MFD_CLOEXEC));
  ASSERT_EQ(::ftruncate(memfd.get(), bytes), 0);
  int sysv = ::shmget(IPC_PRIVATE, bytes, IPC_CREAT | 0600);
  ASSERT_GE(sysv, 0);
  auto* segment = static_cast<char*>(::shmat(sysv, nullptr, 0));
  ::shmctl(sysv, IPC_RMID, nullptr);
  auto map = [&](int flags, int fd) {
    return static_cast<char*>(::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, flags, fd, 0));
  };
  std::vector<char*> shared = {map(MAP_SHARED | MAP_ANONYMOUS, -1), map(MAP_SHARED, memfd.get()),
                               segment};
  pid_t pid = start([&] {
    for (char* memory : shared) fill(memory, pages, 1);
    *step_ = 1;
    for (;;) ::pause();
  });
  refresh({pid});
  ASSERT_TRUE(tracker_->precopy());
  auto memory = freeze({pid});
  for (char* at : shared) EXPECT_EQ(captured_in(memory[0], at, pages), 0u);
  EXPECT_EQ(captured_region_pages(memory[0]).size(), region_pages / 2) << "the rest is tracked";
  ::munmap(shared[0], bytes);
  ::munmap(shared[1], bytes);
  ::shmdt(segment);
}

// Pages of 2 MiB from the pool.
TEST_F(TrackedProcess, Hugetlbfs) {
  constexpr std::size_t huge = 2u << 20;
  auto pool = sys::read_file("/proc/sys/vm/nr_hugepages");
  ASSERT_TRUE(pool);
  bool own_pool = pool->starts_with("0");
  auto set_pool = [](const char* pages) {
    Fd file(::open("/proc/sys/vm/nr_hugepages", O_WRONLY | O_CLOEXEC));
    return file.valid() && ::write(file.get(), pages, 1) == 1;
  };
  if (own_pool && !set_pool("4")) GTEST_SKIP() << "no huge pages here, and none can be reserved";
  void* memory = ::mmap(nullptr, 2 * huge, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
  if (memory != MAP_FAILED) {
    auto* at = static_cast<char*>(memory);
    pid_t pid = start([&] {
      fill(at, 2 * huge / page_bytes, 1);
      *step_ = 1;
      wait_for(2);
      at[huge] = 2;
      *step_ = 3;
      for (;;) ::pause();
    });
    refresh({pid});
    EXPECT_TRUE(tracker_->precopy());
    freeze({pid});  // compares what was captured, if it was
    say(2);
    await(3);
    auto after = freeze({pid});
    auto captured = after.empty() ? 0 : captured_in(after[0], at, 2 * huge / page_bytes);
    EXPECT_TRUE(captured == 0 || captured == 2 * huge / page_bytes)
        << captured << " pages: neither all of it nor none, which leaves it to CRIU";
    ::kill(pid, SIGKILL);
    ::munmap(memory, 2 * huge);
  }
  if (own_pool) set_pool("0");
  if (memory == MAP_FAILED) GTEST_SKIP() << "no huge pages could be reserved";
}

// As after a setuid program has dropped or taken rights: not dumpable, another user.
TEST_F(TrackedProcess, ChildrenOfOtherUsers) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root";
  pid_t pid = start([&] {
    if (::setgroups(0, nullptr) != 0 || ::setresgid(65534, 65534, 65534) != 0 ||
        ::setresuid(65534, 65534, 65534) != 0 || ::prctl(PR_SET_DUMPABLE, 0) != 0)
      ::_exit(1);
    *step_ = 1;
    wait_for(2);
    region_[1 * page_bytes] = 5;
    *step_ = 3;
    for (;;) ::pause();
  });
  refresh({pid});
  EXPECT_EQ(report_of(pid).tier, MemoryTier::Tracked) << report_of(pid).reason;
  ASSERT_TRUE(tracker_->precopy());
  freeze({pid});
  say(2);
  await(3);
  EXPECT_EQ(captured_region_pages(freeze({pid})[0]).size(), region_pages / 2 + 1);
}

}  // namespace
}  // namespace baton::agent
