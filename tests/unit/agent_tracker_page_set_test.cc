#include <gtest/gtest.h>

#include <random>
#include <set>

#include "agent/engine/page_set.h"

namespace baton::agent {
namespace {

using sys::page_bytes;

constexpr std::uint64_t base = 0x7f00'0000'0000;

PageSet from_pages(const std::set<std::uint64_t>& pages) {
  PageSet set;
  for (std::uint64_t page : pages)
    set.append(base + page * page_bytes, base + (page + 1) * page_bytes);
  return set;
}

std::set<std::uint64_t> to_pages(const PageSet& set) {
  std::set<std::uint64_t> pages;
  std::uint64_t last_end = 0;
  for (const PageRun& run : set.runs()) {
    EXPECT_GT(run.start, last_end) << "runs touch, overlap or go back";
    EXPECT_LT(run.start, run.end);
    last_end = run.end;
    for (std::uint64_t at = run.start; at < run.end; at += page_bytes)
      pages.insert((at - base) / page_bytes);
  }
  return pages;
}

std::set<std::uint64_t> random_pages(std::mt19937_64& random, std::uint64_t range) {
  std::set<std::uint64_t> pages;
  for (std::uint64_t at = 0; at < range;) {
    at += random() % 7;
    for (std::uint64_t n = random() % 9; n > 0 && at < range; --n) pages.insert(at++);
  }
  return pages;
}

TEST(PageSetTest, OperationsAgreeWithPlainSets) {
  for (int seed = 0; seed < 500; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937_64 random(static_cast<unsigned>(seed));
    auto a = random_pages(random, 60), b = random_pages(random, 60);
    std::set<std::uint64_t> both, rest;
    for (auto page : a) (b.contains(page) ? both : rest).insert(page);
    ASSERT_EQ(to_pages(intersect(from_pages(a), from_pages(b))), both);
    ASSERT_EQ(to_pages(subtract(from_pages(a), from_pages(b))), rest);
    ASSERT_EQ(from_pages(a).pages(), a.size());
  }
}

}  // namespace
}  // namespace baton::agent
