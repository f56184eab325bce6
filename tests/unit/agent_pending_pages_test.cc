#include <gmock/gmock.h>

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

}  // namespace
}  // namespace baton::agent
