// The order in which pages are brought back.
#include <gmock/gmock.h>

#include <map>
#include <random>

#include "agent/engine/copy_plan.h"
#include "store/page_hash.h"

namespace baton::agent {
namespace {

using store::kPageBytes;

constexpr std::uint64_t base = 0x7f00'0000'0000;

store::PageMap map_of(std::vector<std::uint32_t> pack_pages) {
  store::PageMap map;
  for (std::uint32_t pages : pack_pages) map.packs.push_back({"", pages});
  return map;
}

TEST(CopyPlan, WhatWasWrittenLastComesFirst) {
  store::PageMap map = map_of({10, 5, 2});
  map.append({base, 10, 0, 0});
  map.append({base + 10 * kPageBytes, 2, 2, 0});
  map.append({base + 12 * kPageBytes, 3, store::kZeroPages, 0});
  map.append({base + 15 * kPageBytes, 5, 1, 0});
  CopyPlan plan(map);
  EXPECT_EQ(plan.next()->pack, 2u);
  EXPECT_EQ(plan.next()->pack, 1u);
  EXPECT_EQ(plan.next()->pack, 0u);
  EXPECT_FALSE(plan.next());
}

TEST(CopyPlan, TheNewestPagesAreThoseOfTheLastPacks) {
  store::PageMap map = map_of({10, 5, 2, 7});
  map.append({base, 10, 0, 0});
  map.append({base + 10 * kPageBytes, 2, 2, 0});
  map.append({base + 12 * kPageBytes, 3, store::kZeroPages, 0});
  map.append({base + 15 * kPageBytes, 5, 1, 0});
  EXPECT_TRUE(newest_pages(map, 0).runs.empty());
  const auto two = newest_pages(map, 2);
  EXPECT_EQ(two.packs, map.packs);
  EXPECT_THAT(two.runs, testing::ElementsAre(map.runs[1]));
  EXPECT_THAT(newest_pages(map, 3).runs, testing::ElementsAre(map.runs[1], map.runs[3]));
  EXPECT_EQ(newest_pages(map, 1'000).runs.size(), 3u);
}

// Pages of a large pack that were written again leave holes in it and break its run into many.
TEST(CopyPlan, ABlockOfAPackIsReadOnceHoweverManyRunsItIsIn) {
  store::PageMap map = map_of({128, 40});
  for (std::uint32_t page = 0; page < 128; ++page) {
    const bool again = page % 4 == 1;
    map.append({base + page * kPageBytes, 1, again ? 1u : 0u, again ? page / 4 : page});
  }
  CopyPlan plan(map);
  auto step = plan.next();
  ASSERT_TRUE(step);
  EXPECT_EQ(step->pack, 1u);
  EXPECT_EQ(step->pages, 32u);
  EXPECT_EQ(step->pieces.size(), 32u);
  for (std::uint32_t block = 0; block < 2; ++block) {
    step = plan.next();
    ASSERT_TRUE(step);
    EXPECT_EQ(step->pack, 0u);
    EXPECT_EQ(step->first, block * 64);
    EXPECT_EQ(step->pages, 64u);
    EXPECT_EQ(step->pieces.size(), 17u);
  }
  EXPECT_FALSE(plan.next());
}

TEST(CopyPlan, EveryPageOfARandomMapComesOnceFromItsPlace) {
  std::mt19937 random(7);
  for (int round = 0; round < 50; ++round) {
    store::PageMap map = map_of({300, 1, 200, 16'384});
    std::map<std::uint64_t, std::pair<std::uint32_t, std::uint32_t>> wanted;
    for (std::uint64_t page = 0; page < 2'000; ++page) {
      const std::uint32_t pack = random() % 6;
      if (pack > 4) continue;  // no page there
      const std::uint64_t address = base + page * kPageBytes;
      if (pack == 4) {
        map.append({address, 1, store::kZeroPages, 0});
        continue;
      }
      // Equal pages are stored once, so several may be the same one.
      const auto first = static_cast<std::uint32_t>(random() % map.packs[pack].pages);
      map.append({address, 1, pack, first});
      wanted[address] = {pack, first};
    }
    CopyPlan plan(map);
    while (auto step = plan.next()) {
      ASSERT_LE(step->pages, CopyPlan::kMostPages);
      ASSERT_LE(step->first + step->pages, map.packs[step->pack].pages);
      for (const CopyPiece& piece : step->pieces) {
        ASSERT_GE(piece.first, step->first);
        ASSERT_LE(piece.first + piece.pages, step->first + step->pages);
        for (std::uint32_t i = 0; i < piece.pages; ++i) {
          auto found = wanted.find(piece.address + i * kPageBytes);
          ASSERT_NE(found, wanted.end());
          EXPECT_EQ(found->second, std::pair(step->pack, piece.first + i));
          wanted.erase(found);
        }
      }
    }
    EXPECT_TRUE(wanted.empty());
  }
}

}  // namespace
}  // namespace baton::agent
