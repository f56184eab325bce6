// Which checkpoints retention lets go: examples, and random histories against a simple model.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>

#include "core/retention.h"
#include "unit/core_fixture.h"

namespace baton::core {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

constexpr std::int64_t kMinute = 60'000;
constexpr std::int64_t kHour = 60 * kMinute;
constexpr std::int64_t kDay = 24 * kHour;

std::vector<std::uint64_t> gone(const std::vector<RetentionItem>& items,
                                const RetentionRules& rules) {
  std::vector<std::uint64_t> numbers;
  for (CheckpointNumber number : superfluous_checkpoints(items, rules))
    numbers.push_back(number.value);
  return numbers;
}

// Numbers 1, 2, 3 … taken at these times.
std::vector<RetentionItem> taken(const std::vector<std::int64_t>& times) {
  std::vector<RetentionItem> items;
  for (std::int64_t time : times)
    items.push_back({CheckpointNumber(items.size() + 1), 100 * kDay + time});
  return items;
}

TEST(Retention, KeepsTheNewest) {
  EXPECT_THAT(gone(taken({0, 1, 2, 3}), {.last = 2}), ElementsAre(2, 1));
  EXPECT_THAT(gone(taken({0, 1}), {.last = 2}), IsEmpty());
  EXPECT_THAT(gone({}, {.last = 2}), IsEmpty());
  EXPECT_THAT(gone(taken({0, 1}), {.last = 0}), ElementsAre(1)) << "never the last one";
}

TEST(Retention, KeepsTheNewestOfEachOfTheLastHoursAndDaysThatHaveOne) {
  const auto items = taken({0, 10 * kMinute, kHour, kHour + kMinute, 5 * kHour, 5 * kHour + 1});
  EXPECT_THAT(gone(items, {.last = 1, .hourly = 1}), ElementsAre(5, 4, 3, 2, 1));
  EXPECT_THAT(gone(items, {.last = 1, .hourly = 2}), ElementsAre(5, 3, 2, 1));
  EXPECT_THAT(gone(items, {.last = 1, .hourly = 9}), ElementsAre(5, 3, 1));
  EXPECT_THAT(gone(items, {.last = 2, .hourly = 2}), ElementsAre(3, 2, 1));
  EXPECT_THAT(gone(taken({0, kHour, kDay, kDay + kHour, 3 * kDay}), {.last = 1, .daily = 2}),
              ElementsAre(3, 2, 1));
  EXPECT_THAT(
      gone(taken({0, kHour, kDay, kDay + kHour, 3 * kDay}), {.last = 1, .hourly = 2, .daily = 3}),
      ElementsAre(3, 1));
}

TEST(Retention, PinnedOnesStayAndDamagedOnesCountForNothing) {
  auto items = taken({0, 1, 2, 3, 4, 5});
  items[0].pinned = true;
  EXPECT_THAT(gone(items, {.last = 1}), ElementsAre(5, 4, 3, 2));
  items[5].good = items[4].good = items[3].good = false;
  EXPECT_THAT(gone(items, {.last = 1}), ElementsAre(4, 2)) << "3 is the newest good one";
  items[3].pinned = true;
  EXPECT_THAT(gone(items, {.last = 1}), ElementsAre(2));
}

// The rules again, each by counting what is newer, without a thought for speed.
bool model_keeps(const std::vector<RetentionItem>& items, std::size_t at,
                 const RetentionRules& rules) {
  const RetentionItem& item = items[at];
  if (item.pinned) return true;
  std::size_t alike = 0;
  std::set<std::int64_t> hours, days;
  for (std::size_t newer = at + 1; newer < items.size(); ++newer) {
    if (items[newer].good != item.good) continue;
    ++alike;
    hours.insert(items[newer].taken_wall_ms / kHour);
    days.insert(items[newer].taken_wall_ms / kDay);
  }
  if (!item.good) return alike < 2;
  const bool hourly = hours.size() < rules.hourly && !hours.contains(item.taken_wall_ms / kHour);
  const bool daily = days.size() < rules.daily && !days.contains(item.taken_wall_ms / kDay);
  return alike < std::max(rules.last, 1u) || hourly || daily;
}

TEST(Retention, RandomHistoriesFollowTheModelAndKeepTheLastAndThePinned) {
  const std::uint64_t seed = std::random_device()();
  std::mt19937_64 random(seed);
  auto up_to = [&](std::uint64_t most) { return random() % (most + 1); };
  for (int history = 0; history < 200; ++history) {
    SCOPED_TRACE(fmt::format("seed {}, history {}", seed, history));
    const RetentionRules rules{static_cast<std::uint32_t>(up_to(4)),
                               static_cast<std::uint32_t>(up_to(5)),
                               static_cast<std::uint32_t>(up_to(3))};
    std::vector<RetentionItem> items;
    std::int64_t now = 1'000 * kDay;
    for (std::uint64_t number = 1; number < 120; ++number) {
      now += static_cast<std::int64_t>(up_to(3) == 0 ? up_to(2 * kDay) : up_to(30 * kMinute));
      if (up_to(30) == 0) now -= static_cast<std::int64_t>(up_to(3 * kHour));  // another clock
      items.push_back({CheckpointNumber(number), now});
      for (RetentionItem& item : items) {
        if (up_to(40) == 0) item.good = false;
        if (up_to(60) == 0) item.pinned = !item.pinned;
      }
      const auto removed = superfluous_checkpoints(items, rules);
      const auto goes = [&](const RetentionItem& item) {
        return std::ranges::find(removed, item.number) != removed.end();
      };
      const RetentionItem* newest_good = nullptr;
      for (std::size_t at = 0; at < items.size(); ++at) {
        ASSERT_EQ(!goes(items[at]), model_keeps(items, at, rules)) << items[at].number.value;
        ASSERT_FALSE(items[at].pinned && goes(items[at]));
        if (items[at].good) newest_good = &items[at];
      }
      if (newest_good) {
        ASSERT_FALSE(goes(*newest_good));
      }
      std::erase_if(items, goes);
      ASSERT_THAT(gone(items, rules), IsEmpty()) << "what is kept is kept";
    }
  }
}

class DamagedTest : public ClusterTest {
 protected:
  void SetUp() override {
    up("one");
    up("two");
    run("one", 3);
  }
  void damage(std::uint64_t number, bool damaged = true) {
    apply(CheckpointVerified{JobId(1), CheckpointNumber(number), damaged, "packs/x: missing"});
  }
  // The checkpoint from which the job is restored when its node is lost.
  std::uint64_t restored_from() {
    pass(2 * kTerm, {"two"});
    for (const Output& output : launched)
      if (const auto* restore = std::get_if<RestoreIncarnation>(&output))
        return restore->checkpoint.value;
    return 0;
  }
  void pass(TimeMs ms, const std::vector<std::string>& nodes) {
    const TimeMs end = now + ms;
    while (now < end) {
      now = std::min(end, now + 600);
      for (const auto& node : nodes) {
        beat(node);
        std::ranges::copy(last, std::back_inserter(launched));
      }
    }
  }
  std::vector<Output> launched;
};

TEST_F(DamagedTest, TheOneBeforeIsUsed) {
  damage(3);
  EXPECT_TRUE(told(event::kDamaged, "packs/x: missing"));
  EXPECT_TRUE(job().is_protected);
  EXPECT_EQ(restored_from(), 2u);
}

TEST_F(DamagedTest, WhereThereIsNoOtherItIsTriedAndTheJobCountsAsUnprotected) {
  for (std::uint64_t number : {1, 2, 3}) damage(number);
  EXPECT_FALSE(job().is_protected);
  EXPECT_EQ(restored_from(), 3u);
}

TEST_F(DamagedTest, OneThatIsWholeAgainCountsAgain) {
  for (std::uint64_t number : {1, 2, 3}) damage(number);
  damage(2, false);
  EXPECT_TRUE(job().is_protected);
  EXPECT_EQ(times_told(event::kDamaged), 3);
  EXPECT_EQ(restored_from(), 2u);
}

}  // namespace
}  // namespace baton::core
