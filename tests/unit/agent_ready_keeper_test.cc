// Memory of staged checkpoints, decompressed.
#include <gmock/gmock.h>

#include <fstream>

#include "agent/engine/checkpoint_layout.h"
#include "agent/engine/open_packs.h"
#include "agent/ready_keeper.h"
#include "fakes/temp_dir.h"
#include "sys/file.h"

namespace baton::agent {
namespace {

namespace fs = std::filesystem;
using store::kPageBytes;

constexpr std::uint32_t kPages = 40;
constexpr std::uint64_t kPackBytes = kPages * kPageBytes;

class ReadyKeeperTest : public testing::Test {
 protected:
  // A pack of `kPages` pages full of `letter`; its hash.
  std::string pack(char letter) {
    auto writer = store::PackWriter::create(root_.path());
    const std::string page(kPageBytes, letter);
    for (std::uint32_t i = 0; i < kPages; ++i)
      EXPECT_TRUE((*writer)->add(page.data(), store::hash_page(page.data())));
    return (*writer)->seal()->hash;
  }
  // The newest checkpoint of a job has these packs.
  std::shared_ptr<LocalCopy> copy(std::uint64_t job, const std::vector<std::string>& packs) {
    const fs::path directory = root_.path() / "fetched";
    fs::create_directories(directory / layout::packs_folder);
    for (const auto& hash : packs) {
      const fs::path path = directory / layout::packs_folder / hash;
      fs::copy_file(root_.path() / hash, path);
      fs::last_write_time(path, begin_ + std::chrono::seconds(++age_));
    }
    pb::Checkpoint info;
    info.set_job_id(job);
    info.set_number(++number_);
    return *copies_->keep(info, directory, {}, true);
  }
  // So much that packs are kept, and not more.
  static constexpr std::uint64_t room_for(std::uint64_t packs) {
    return packs * kPackBytes * 8 / 7 + 8;
  }
  bool holds(const ReadyPacks& ready, const std::string& hash, char letter) {
    auto reader = ready.reader(hash);
    if (!reader) return false;
    std::string page(kPageBytes, '\0');
    return reader->read(kPages - 1, 1, page.data()) && page == std::string(kPageBytes, letter);
  }

  fakes::TempDir root_;
  std::unique_ptr<LocalCopies> copies_ = std::move(*LocalCopies::open(root_.path() / "copies"));
  std::uint64_t number_ = 0;
  const fs::file_time_type begin_ = fs::file_time_type::clock::now() - std::chrono::hours(1);
  int age_ = 0;
  std::atomic<std::uint64_t> budget_ = 1 << 30;
  ReadyKeeper keeper_{[this] { return budget_.load(); }};
};

TEST_F(ReadyKeeperTest, KeepsWhatTheNewestCheckpointHas) {
  const std::string a = pack('a'), b = pack('b'), c = pack('c');
  keeper_.staged(JobId(7), copy(7, {a, b}));
  keeper_.settle();
  EXPECT_EQ(keeper_.bytes(), 2 * kPackBytes);
  // What it has already is not read again, so it may be gone.
  auto newer = copy(7, {b, c});
  keeper_.staged(JobId(7), newer);
  keeper_.settle();
  EXPECT_EQ(keeper_.bytes(), 2 * kPackBytes);
  const auto ready = keeper_.take(JobId(7));
  ASSERT_TRUE(ready);
  EXPECT_FALSE(ready->reader(a));
  EXPECT_TRUE(holds(*ready, b, 'b'));
  EXPECT_TRUE(holds(*ready, c, 'c'));
  EXPECT_FALSE(keeper_.take(JobId(7)));
  EXPECT_EQ(keeper_.bytes(), 0u);
}

// What was written last is wanted first.
TEST_F(ReadyKeeperTest, OfWhatDoesNotFitTheNewestIsKeptAndOthersStay) {
  const std::string a = pack('a'), b = pack('b'), c = pack('c');
  budget_ = room_for(2);
  keeper_.staged(JobId(1), copy(1, {a}));
  keeper_.settle();
  keeper_.staged(JobId(2), copy(2, {b, c}));
  keeper_.settle();
  EXPECT_EQ(keeper_.bytes(), 2 * kPackBytes);
  const auto ready = keeper_.take(JobId(2));
  ASSERT_TRUE(ready);
  ASSERT_TRUE(ready->reader(b)) << "what is in it is known";
  EXPECT_FALSE(ready->reader(b)->is_expanded());
  EXPECT_TRUE(ready->reader(c)->is_expanded());
  EXPECT_TRUE(holds(*ready, b, 'b') && holds(*ready, c, 'c'));
  const auto other = keeper_.take(JobId(1));
  ASSERT_TRUE(other);
  EXPECT_TRUE(holds(*other, a, 'a'));
}

TEST_F(ReadyKeeperTest, WhatTheNodeCanNotSpareAnyMoreIsGivenBackTheLargestFirst) {
  const std::string a = pack('a'), b = pack('b'), c = pack('c');
  keeper_.staged(JobId(1), copy(1, {a, b}));
  keeper_.staged(JobId(2), copy(2, {c}));
  keeper_.settle();
  EXPECT_EQ(keeper_.bytes(), 3 * kPackBytes);
  budget_ = kPackBytes;
  keeper_.staged(JobId(3), copy(3, {b}));  // for which there is no room
  keeper_.settle();
  EXPECT_FALSE(keeper_.take(JobId(1)));
  EXPECT_TRUE(keeper_.take(JobId(2)));
  const auto none = keeper_.take(JobId(3));
  EXPECT_TRUE(!none || none->bytes() == 0);
}

TEST_F(ReadyKeeperTest, WhoAwaitsACheckpointWaitsUntilItIsReadyOrWillNotBe) {
  constexpr auto most = std::chrono::seconds(60);
  const std::string a = pack('a');
  keeper_.await(JobId(1), CheckpointNumber(1), most);  // it is not staged
  keeper_.staged(JobId(1), copy(1, {a}));
  keeper_.await(JobId(1), CheckpointNumber(number_), most);
  EXPECT_EQ(keeper_.bytes(), kPackBytes);
  budget_ = 0;
  keeper_.staged(JobId(1), copy(1, {a}));
  keeper_.await(JobId(1), CheckpointNumber(number_), most);
  EXPECT_EQ(keeper_.bytes(), 0u);
  const auto none = keeper_.take(JobId(1));
  EXPECT_TRUE(!none || !none->reader(a)) << "not even what is in it";
}

TEST_F(ReadyKeeperTest, WhatIsDroppedOrDamagedIsNotKept) {
  const std::string a = pack('a'), b = pack('b');
  keeper_.staged(JobId(1), copy(1, {a}));
  keeper_.drop(JobId(1));
  keeper_.settle();
  EXPECT_EQ(keeper_.bytes(), 0u);
  fs::resize_file(root_.path() / b, fs::file_size(root_.path() / b) / 2);
  keeper_.staged(JobId(1), copy(1, {a, b}));
  keeper_.settle();
  EXPECT_FALSE(keeper_.take(JobId(1)));
}

TEST_F(ReadyKeeperTest, ARestoreReadsThemInsteadOfTheFiles) {
  const std::string a = pack('a'), b = pack('b');
  keeper_.staged(JobId(1), copy(1, {a}));
  keeper_.settle();
  const fs::path folder = root_.path() / "others";
  fs::create_directories(folder);
  fs::copy_file(root_.path() / b, folder / b);  // and no file of the first
  OpenPacks packs(folder, keeper_.take(JobId(1)));
  ASSERT_TRUE(packs.hold_all({.packs = {{a, kPages}, {b, kPages}}, .runs = {}}));
  fs::remove_all(folder);
  OpenPacks another = packs.another();
  std::string page(kPageBytes, '\0');
  for (OpenPacks* each : {&packs, &another})
    for (const auto& [hash, letter] : {std::pair(a, 'a'), std::pair(b, 'b')}) {
      auto reader = each->get(hash);
      ASSERT_TRUE(reader) << reader.error().message();
      ASSERT_TRUE((*reader)->read(3, 1, page.data()));
      EXPECT_EQ(page, std::string(kPageBytes, letter));
    }
}

}  // namespace
}  // namespace baton::agent
