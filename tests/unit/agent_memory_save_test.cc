// What checkpoints take in packs, however long a job runs and whatever it writes.
#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>

#include "agent/engine/checkpoint_layout.h"
#include "agent/engine/memory_save.h"
#include "fakes/temp_dir.h"
#include "sys/file.h"

namespace baton::agent {
namespace {

namespace fs = std::filesystem;
using sys::page_bytes;

constexpr std::uint64_t base = 0x7f00'0000'0000;
constexpr std::uint64_t pages = 4096;
constexpr pid_t pid = 17;
constexpr std::size_t kept = 3;

class LongRun : public testing::Test {
 protected:
  using Versions = std::map<std::uint64_t, std::uint64_t>;  // of pages

  void SetUp() override {
    auto packs = PagePacks::create(directory_.path() / "packs");
    ASSERT_TRUE(packs) << packs.error().message();
    packs_ = std::move(*packs);
    store_.emplace(*packs_);
    all_.append(base, base + pages * page_bytes);
    for (std::uint64_t page = 0; page < pages; ++page) write(page);
  }

  void write(std::uint64_t page) {
    versions_[page] = ++version_;
    ASSERT_TRUE(store_->put(base + page * page_bytes, content(version_)));
  }
  static std::string content(std::uint64_t version) {
    std::string content(page_bytes, 'x');
    content.replace(0, 16, fmt::format("{:016}", version));
    return content;
  }

  void checkpoint() {
    const fs::path folder = directory_.path() / std::to_string(checkpoints_++);
    fs::create_directory(folder);
    const MemoryToSave memory[] = {{pid, &all_, &*store_}};
    const auto saved = save_memory(*packs_, memory, folder, false);
    ASSERT_TRUE(saved) << saved.error().message();
    folders_.emplace_back(folder, versions_);
    if (folders_.size() <= kept) return;
    fs::remove_all(folders_.front().first);
    folders_.erase(folders_.begin());
  }

  // All that the newest checkpoint links to, needed or not.
  void require_bounded() {
    std::uint64_t packed = 0;
    for (const auto& [number, pack] : packs_->packs()) packed += pack.pages;
    ASSERT_LE(packed, 4 * pages) << "after " << checkpoints_ << " checkpoints";
    ASSERT_LE(packs_->packs().size(), 256u + 2) << "after " << checkpoints_ << " checkpoints";
  }

  // No checkpoint has lost anything to the rewriting of others.
  void require_whole() {
    for (const auto& [folder, versions] : folders_) {
      auto bytes = sys::read_file(folder / layout::map_file(pid));
      ASSERT_TRUE(bytes);
      auto map = store::decode_page_map(*bytes);
      ASSERT_TRUE(map) << map.error().message();
      ASSERT_EQ(map->pages(), pages);
      std::map<std::uint32_t, std::unique_ptr<store::PackReader>> readers;
      std::string page(page_bytes, '\0');
      for (const store::MapRun& run : map->runs)
        for (std::uint32_t i = 0; i < run.pages; ++i) {
          auto& reader = readers[run.pack];
          if (!reader) {
            auto opened =
                store::PackReader::open(folder / layout::packs_folder / map->packs[run.pack].hash);
            ASSERT_TRUE(opened) << opened.error().message();
            reader = std::move(*opened);
          }
          ASSERT_TRUE(reader->read(run.first + i, 1, page.data()));
          ASSERT_EQ(page, content(versions.at((run.address - base) / page_bytes + i)));
        }
    }
  }

  fakes::TempDir directory_;
  std::unique_ptr<PagePacks> packs_;
  std::optional<PageStore> store_;
  PageSet all_;
  Versions versions_;
  std::uint64_t version_ = 0;
  int checkpoints_ = 0;
  std::vector<std::pair<fs::path, Versions>> folders_;
};

TEST_F(LongRun, PagesWrittenAtRandomTakeFourTimesTheirRoomAtMost) {
  std::mt19937_64 random(5);
  for (int round = 0; round < 300; ++round) {
    for (int i = 0; i < 40; ++i) write(random() % pages);
    checkpoint();
    require_bounded();
    if (round % 100 == 99) require_whole();
  }
}

// Of each pack a few pages are never written again.
TEST_F(LongRun, OldPagesDoNotKeepTheirPacks) {
  for (std::uint64_t round = 0; round < 60; ++round) {
    for (std::uint64_t page = 0; page < pages; ++page)
      if (page % 64 != round) write(page);
    checkpoint();
    require_bounded();
  }
  require_whole();
}

}  // namespace
}  // namespace baton::agent
