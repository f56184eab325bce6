// Flags of mappings by a BPF iterator.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <map>

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
