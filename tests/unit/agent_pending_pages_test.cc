#include <gmock/gmock.h>

#include <map>
#include <random>

#include "agent/engine/pending_pages.h"

namespace baton::agent {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using Piece = PendingPages::Piece;

constexpr std::uint64_t p(std::uint64_t pages) { return 0x10000 + pages * 4096; }

TEST(PendingPages, AreFoundWhereTheyWere) {
  PendingPages pending;
  pending.add(p(0), p(4));
  pending.add(p(4), p(6));
  pending.add(p(9), p(10));
  EXPECT_THAT(pending.all(), ElementsAre(Piece{p(0), p(6), p(0)}, Piece{p(9), p(10), p(9)}));
  EXPECT_EQ(pending.image_of(p(5)), p(5));
  EXPECT_EQ(pending.image_of(p(6)), std::nullopt);
  EXPECT_EQ(pending.image_of(p(0) - 4096), std::nullopt);
  EXPECT_EQ(pending.bytes(), 7 * 4096u);
  EXPECT_THAT(pending.from_image(p(5), p(12)),
              ElementsAre(Piece{p(5), p(6), p(5)}, Piece{p(9), p(10), p(9)}));
}

TEST(PendingPages, WhatIsDroppedIsAwaitedNoMore) {
  PendingPages pending;
  pending.add(p(0), p(10));
  pending.drop(p(3), p(5));
  EXPECT_THAT(pending.all(), ElementsAre(Piece{p(0), p(3), p(0)}, Piece{p(5), p(10), p(5)}));
  pending.drop(p(2), p(6));
  EXPECT_THAT(pending.all(), ElementsAre(Piece{p(0), p(2), p(0)}, Piece{p(6), p(10), p(6)}));
  pending.drop(p(0), p(20));
  EXPECT_TRUE(pending.empty());
}

TEST(PendingPages, WhatIsMovedIsFoundThereAndByItsImage) {
  PendingPages pending;
  pending.add(p(0), p(4));
  pending.add(p(8), p(12));
  pending.move(p(1), p(3), p(9));  // onto pages that are awaited themselves
  EXPECT_THAT(pending.all(),
              ElementsAre(Piece{p(0), p(1), p(0)}, Piece{p(3), p(4), p(3)}, Piece{p(8), p(9), p(8)},
                          Piece{p(9), p(11), p(1)}, Piece{p(11), p(12), p(11)}));
  EXPECT_EQ(pending.image_of(p(10)), p(2));
  EXPECT_THAT(pending.from_image(p(2), p(3)), ElementsAre(Piece{p(10), p(11), p(2)}));
  EXPECT_THAT(pending.from_image(p(9), p(11)), IsEmpty());
  pending.move(p(9), p(11), p(1));
  EXPECT_THAT(
      pending.from_image(p(0), p(4)),
      ElementsAre(Piece{p(0), p(1), p(0)}, Piece{p(1), p(3), p(1)}, Piece{p(3), p(4), p(3)}));
}

// Against a table of each page, while pages move, come and go.
TEST(PendingPages, MovesAtRandomAreKeptTrackOf) {
  constexpr std::uint64_t pages = 60;
  std::mt19937 random(3);
  for (int round = 0; round < 200; ++round) {
    PendingPages pending;
    std::map<std::uint64_t, std::uint64_t> model;  // place -> image
    pending.add(p(0), p(40));
    for (std::uint64_t page = 0; page < 40; ++page) model[page] = page;
    for (int step = 0; step < 20; ++step) {
      const std::uint64_t start = random() % 50, end = start + 1 + random() % 10;
      if (random() % 2 == 0) {
        pending.drop(p(start), p(end));
        for (std::uint64_t page = start; page < end; ++page) model.erase(page);
        continue;
      }
      const std::uint64_t to = random() % (pages - 10);
      if (to < end && start < to + (end - start)) continue;  // the kernel takes no such move
      pending.move(p(start), p(end), p(to));
      std::map<std::uint64_t, std::uint64_t> moving;
      for (std::uint64_t page = start; page < end; ++page)
        if (auto moved = model.extract(page)) moving[to + page - start] = moved.mapped();
      for (std::uint64_t page = to; page < to + (end - start); ++page) model.erase(page);
      model.merge(moving);
    }
    std::map<std::uint64_t, std::uint64_t> by_image;
    for (auto [place, image] : model) {
      ASSERT_EQ(pending.image_of(p(place)), p(image));
      by_image[image] = place;
    }
    EXPECT_EQ(pending.bytes(), model.size() * 4096);
    for (std::uint64_t image = 0; image < 40; ++image) {
      const auto found = pending.from_image(p(image), p(image + 1));
      ASSERT_EQ(found.size(), by_image.count(image));
      if (!found.empty()) {
        EXPECT_EQ(found[0].start, p(by_image[image]));
      }
      EXPECT_EQ(pending.awaits(p(image), p(image + 1)), !found.empty());
    }
  }
}

}  // namespace
}  // namespace baton::agent
