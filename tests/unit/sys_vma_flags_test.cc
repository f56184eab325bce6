// Flags of mappings by a BPF iterator.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <thread>
#include <vector>

#include "sys/pagemap.h"
#include "sys/proc_maps.h"
#include "sys/vma_flags.h"

namespace baton::sys {
namespace {

class VmaFlagsTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!reader_) GTEST_SKIP() << "not here: " << reader_.error().message();
  }
  // By where they begin.
  std::map<std::uint64_t, VmaFlags> own() {
    std::map<std::uint64_t, VmaFlags> result;
    const auto all = reader_->read(::getpid());
    EXPECT_TRUE(all) << all.error().message();
    if (all)
      for (const VmaFlags& vma : *all) result[vma.start] = vma;
    return result;
  }

  Result<VmaFlagsReader> reader_ = VmaFlagsReader::create();
};

TEST_F(VmaFlagsTest, HasTheMappingsThatProcHas) {
  std::size_t found = 0;
  const auto flags = own();
  const auto mappings = read_mappings(::getpid());
  ASSERT_TRUE(mappings);
  for (const Mapping& mapping : *mappings)
    found += flags.contains(mapping.start) && flags.at(mapping.start).end == mapping.end;
  EXPECT_GE(found + 3, mappings->size()) << "the heap may have grown between; vsyscall is none";
  EXPECT_GT(found, 10u);
}

TEST_F(VmaFlagsTest, AdviceShows) {
  constexpr std::size_t size = 16 * page_bytes;
  void* const memory =
      ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(memory, MAP_FAILED);
  const auto at = reinterpret_cast<std::uint64_t>(memory);
  const VmaFlags plain = own()[at];
  EXPECT_EQ(plain.end, at + size);
  for (const auto& [advice, undo] :
       {std::pair(MADV_DONTFORK, MADV_DOFORK), std::pair(MADV_DONTDUMP, MADV_DODUMP)}) {
    ASSERT_EQ(::madvise(memory, size, advice), 0);
    EXPECT_NE(own()[at].flags, plain.flags);
    ASSERT_EQ(::madvise(memory, size, undo), 0);
    EXPECT_EQ(own()[at], plain);
  }
  ::munmap(memory, size);
  EXPECT_FALSE(own().contains(at));
}

// The kernel tells of 1,365 at a time.
TEST_F(VmaFlagsTest, HasAllOfThousandsOfMappings) {
  constexpr std::size_t count = 6'000;
  auto* const memory = static_cast<char*>(
      ::mmap(nullptr, count * page_bytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  ASSERT_NE(memory, MAP_FAILED);
  for (std::size_t i = 0; i < count; i += 2)
    ASSERT_EQ(::mprotect(memory + i * page_bytes, page_bytes, PROT_READ | PROT_WRITE), 0);
  const auto flags = own();
  const auto start = reinterpret_cast<std::uint64_t>(memory);
  std::size_t found = 0;
  for (std::size_t i = 1; i + 1 < count; ++i) found += flags.contains(start + i * page_bytes);
  EXPECT_EQ(found, count - 2);
  ::munmap(memory, count * page_bytes);
}

// Each answer has an end, and is in order or said not to be.
TEST_F(VmaFlagsTest, OfAProcessThatMapsMemoryAllTheTime) {
  std::atomic<bool> stop = false;
  std::vector<std::jthread> others;
  for (int i = 0; i < 4; ++i)
    others.emplace_back([&] {
      while (!stop) {
        void* const at = ::mmap(nullptr, page_bytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        ::mprotect(at, page_bytes, PROT_NONE);
        ::munmap(at, page_bytes);
      }
    });
  int good = 0;
  for (int i = 0; i < 2'000; ++i) {
    const auto all = reader_->read(::getpid());
    if (all) {
      ++good;
      EXPECT_TRUE(std::ranges::is_sorted(*all, {}, &VmaFlags::start));
      EXPECT_LT(all->size(), 2'000u);
    } else {
      EXPECT_EQ(all.error().code(), ErrorCode::Unavailable) << all.error().message();
    }
  }
  EXPECT_GT(good, 0);
  stop = true;
}

TEST_F(VmaFlagsTest, SaysWhenThereIsNoSuchProcess) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(0);
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  const auto all = reader_->read(child);
  ASSERT_FALSE(all);
  EXPECT_EQ(all.error().code(), ErrorCode::NotFound) << all.error().message();
}

}  // namespace
}  // namespace baton::sys
