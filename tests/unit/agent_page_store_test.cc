// Copies of pages in packs, and the images that a restore makes of them.
#include <fcntl.h>
#include <gmock/gmock.h>

#include <fstream>
#include <map>
#include <random>
#include <set>

#include "agent/engine/checkpoint_layout.h"
#include "agent/engine/page_store.h"
#include "criu/image_codec.h"
#include "fakes/temp_dir.h"
#include "image_pages.h"
#include "sys/file.h"

namespace baton::agent {
namespace {

namespace fs = std::filesystem;
using sys::page_bytes;
using testing::HasSubstr;

constexpr std::uint64_t base = 0x7f00'0000'0000;

PageSet from_pages(const std::set<std::uint64_t>& pages) {
  PageSet set;
  for (std::uint64_t page : pages)
    set.append(base + page * page_bytes, base + (page + 1) * page_bytes);
  return set;
}

std::string content_of(std::uint64_t page, std::uint64_t version) {
  if (version == 0) return std::string(page_bytes, '\0');
  std::string content(page_bytes, static_cast<char>('a' + version % 26));
  content.replace(0, 16, fmt::format("{:08} {:06}\n", page % 100'000'000, version % 1'000'000));
  return content;
}

class PageStoreTest : public testing::Test {
 protected:
  void SetUp() override {
    auto packs = PagePacks::create(directory_.path() / "packs");
    ASSERT_TRUE(packs) << packs.error().message();
    packs_ = std::move(*packs);
    store_.emplace(*packs_);
  }
  // What the store holds, read as a restore does.
  std::map<std::uint64_t, std::string> contents() {
    EXPECT_TRUE(packs_->seal());
    return read(store::encode_page_map(store_->map()));
  }
  std::map<std::uint64_t, std::string> read(const std::string& map) {
    auto decoded = store::decode_page_map(map);
    std::map<std::uint64_t, std::string> pages;
    EXPECT_TRUE(decoded) << decoded.error().message();
    if (!decoded) return pages;
    for (const store::MapRun& run : decoded->runs)
      for (std::uint64_t i = 0; i < run.pages; ++i) {
        std::string& page = pages[(run.address - base) / page_bytes + i];
        page.assign(page_bytes, '\0');
        if (run.pack == store::kZeroPages) continue;
        auto reader =
            store::PackReader::open(directory_.path() / "packs" / decoded->packs[run.pack].hash);
        EXPECT_TRUE(reader) << reader.error().message();
        EXPECT_TRUE((*reader)->read(run.first + static_cast<std::uint32_t>(i), 1, page.data()));
      }
    return pages;
  }
  Status put(std::uint64_t page, std::uint64_t version) {
    return store_->put(base + page * page_bytes, content_of(page, version));
  }

  fakes::TempDir directory_;
  std::unique_ptr<PagePacks> packs_;
  std::optional<PageStore> store_;
};

// Against a map, with everything the tracker does, over three chunks of addresses. Drafts of its
// map are as old as it comes.
TEST_F(PageStoreTest, HoldsTheNewestCopies) {
  constexpr std::uint64_t range = 1400;
  std::mt19937_64 random(5);
  auto random_pages = [&] {
    std::set<std::uint64_t> pages;
    for (std::uint64_t at = random() % 7; at < range; at += 1 + random() % 7) pages.insert(at);
    return pages;
  };
  std::map<std::uint64_t, std::string> model;
  for (std::uint64_t round = 1; round <= 120; ++round) {
    auto pages = random_pages();
    std::uint64_t version = random() % 40;
    if (random() % 4 == 0) {
      store_->forget(from_pages(pages));
      for (auto page : pages) model.erase(page);
    } else if (round % 9 == 0) {
      store_->keep_only(from_pages(pages));
      std::erase_if(model, [&](const auto& entry) { return !pages.contains(entry.first); });
    } else {
      std::uint64_t first = random() % range, count = 1 + random() % 700;
      std::string content;
      for (std::uint64_t page = first; page < first + count; ++page) {
        content += content_of(page, version);
        model[page] = content_of(page, version);
      }
      ASSERT_TRUE(store_->put(base + first * page_bytes, content));
    }
    ASSERT_EQ(store_->pages_held(), model.size());
    if (random() % 8 == 0) {
      ASSERT_TRUE(packs_->seal());
      store_->draft_map();
    }
    if (round % 5) continue;
    ASSERT_TRUE(packs_->seal());
    const auto map = store_->take_encoded_map();
    ASSERT_EQ(read(map.bytes) == model, true) << round;
    const std::set<std::string> named(map.packs.begin(), map.packs.end());
    const auto decoded = store::decode_page_map(map.bytes);
    ASSERT_TRUE(decoded);
    for (const auto& pack : decoded->packs) ASSERT_TRUE(named.contains(pack.hash));
    if (round % 20) continue;
    ASSERT_EQ(contents() == model, true) << round;
  }
}

// A restore begins with the last one, so that has to be what was written last, wherever it lies.
TEST_F(PageStoreTest, PacksAreNamedInTheOrderTheyWereMadeIn) {
  for (std::uint64_t page : {5, 9, 1, 7}) {
    ASSERT_TRUE(put(page, page));
    ASSERT_TRUE(packs_->seal());
  }
  const store::PageMap map = store_->map();
  ASSERT_EQ(map.packs.size(), 4u);
  std::map<std::uint64_t, std::uint32_t> pack_of;
  for (const store::MapRun& run : map.runs) pack_of[(run.address - base) / page_bytes] = run.pack;
  EXPECT_EQ(pack_of, (std::map<std::uint64_t, std::uint32_t>{{5, 0}, {9, 1}, {1, 2}, {7, 3}}));
}

TEST_F(PageStoreTest, NamesWhatItLacks) {
  ASSERT_TRUE(store_->put(base, content_of(0, 1) + content_of(1, 1)));
  EXPECT_EQ(store_->missing(from_pages({0, 1, 2, 600})).runs(), from_pages({2, 600}).runs());
  store_->forget(from_pages({1}));
  EXPECT_EQ(store_->missing(from_pages({0, 1})).runs(), from_pages({1}).runs());
  store_->forget_all();
  EXPECT_EQ(store_->pages_held(), 0u);
}

TEST_F(PageStoreTest, WhatIsAsItWasTakesNoRoom) {
  for (std::uint64_t page = 0; page < 100; ++page) ASSERT_TRUE(put(page, 3));
  ASSERT_TRUE(packs_->seal());
  EXPECT_EQ(packs_->take_added().pages, 100u);
  store_->forget(from_pages({5, 6, 7}));
  ASSERT_TRUE(put(5, 3));
  ASSERT_TRUE(put(6, 4));
  ASSERT_TRUE(put(7, 0));
  EXPECT_EQ(packs_->added().pages, 1u) << "only page 6 has new content; zeroes lie nowhere";
  EXPECT_EQ(contents().at(5) == content_of(5, 3), true);
  EXPECT_EQ(contents().at(6) == content_of(6, 4), true);
}

// As after a restore: the packs are another sandbox's, nothing is held, but the content is known.
TEST_F(PageStoreTest, RemembersWhatAnEarlierCheckpointHeld) {
  for (std::uint64_t page = 0; page < 50; ++page) ASSERT_TRUE(put(page, page % 5));
  ASSERT_TRUE(packs_->seal());
  auto map = store_->map();
  auto packs = PagePacks::create(directory_.path() / "other");
  ASSERT_TRUE(packs);
  std::vector<std::uint32_t> numbers;
  for (const auto& pack : map.packs) {
    auto number = (*packs)->adopt(directory_.path() / "packs" / pack.hash, pack.hash, pack.pages);
    ASSERT_TRUE(number);
    numbers.push_back(*number);
  }
  PageStore store(**packs);
  ASSERT_TRUE(store.remember(map, numbers));
  EXPECT_EQ(store.pages_held(), 0u);
  for (std::uint64_t page = 0; page < 50; ++page)
    ASSERT_TRUE(store.put(base + page * page_bytes, content_of(page, page == 9 ? 8 : page % 5)));
  EXPECT_EQ((*packs)->added().pages, 1u);
  ASSERT_TRUE((*packs)->seal());
  EXPECT_EQ(store.map().packs.size(), 2u);
}

TEST_F(PageStoreTest, AssemblesBetweenDumpedPages) {
  for (std::uint64_t page : {1, 2, 3, 4, 9}) ASSERT_TRUE(put(page, page == 4 ? 0 : 1));
  ASSERT_TRUE(packs_->seal());
  const fs::path checkpoint = directory_.path() / "checkpoint";
  fs::create_directories(checkpoint / "images");
  fs::create_directories(checkpoint / "memory");
  fs::rename(directory_.path() / "packs", checkpoint / "packs");
  std::ofstream(checkpoint / layout::map_file(7), std::ios::binary)
      << store::encode_page_map(store_->map());
  // CRIU dumped 0, 5 and 6, and 9.
  criu::PagemapImage image{4,
                           {{base, 1, criu::pagemap_present},
                            {base + 5 * page_bytes, 2, criu::pagemap_present | criu::pagemap_lazy},
                            {base + 9 * page_bytes, 1, criu::pagemap_present}}};
  auto from = checkpoint / "images";
  ASSERT_TRUE(criu::write_pagemap(criu::pagemap_path(from, 7), image));
  ASSERT_TRUE(sys::write_file_durable(
      criu::pages_path(from, 4),
      content_of(0, 8) + content_of(5, 8) + content_of(6, 8) + content_of(9, 8)));
  const fs::path images = directory_.path() / "images";
  fs::create_directories(images);
  auto made = assemble_all(checkpoint, images);
  ASSERT_TRUE(made) << made.error().message();
  EXPECT_EQ(made->files, (std::set<std::string>{"pagemap-7.img", "pages-4.img"}));
  auto assembled = criu::read_pagemap(criu::pagemap_path(images, 7));
  ASSERT_TRUE(assembled);
  EXPECT_EQ(assembled->runs,
            (std::vector<criu::PagemapRun>{
                {base, 5, criu::pagemap_present},
                {base + 5 * page_bytes, 2, criu::pagemap_present | criu::pagemap_lazy},
                {base + 9 * page_bytes, 1, criu::pagemap_present}}));
  auto content = sys::read_file(criu::pages_path(images, 4));
  ASSERT_TRUE(content);
  EXPECT_EQ(*content == content_of(0, 8) + content_of(1, 1) + content_of(2, 1) + content_of(3, 1) +
                            content_of(4, 0) + content_of(5, 8) + content_of(6, 8) +
                            content_of(9, 8),
            true);
}

TEST_F(PageStoreTest, WhatProcessesShareCountsOnce) {
  ASSERT_TRUE(put(0, 1));
  ASSERT_TRUE(put(1, 2));
  ASSERT_TRUE(put(2, 3));
  ASSERT_TRUE(packs_->seal());
  PageMaps maps;
  store::PageMap map = store_->map();
  maps[7] = map;
  ASSERT_EQ(map.runs.size(), 1u);
  map.runs[0].pages = 2;
  maps[8] = map;
  map.runs.push_back({base + 64 * page_bytes, 5, store::kZeroPages, 0});
  maps[9] = map;
  const TrackedBytes bytes = tracked_bytes(maps);
  EXPECT_EQ(bytes.all, 7 * page_bytes);
  EXPECT_EQ(bytes.distinct, 3 * page_bytes);
}

TEST_F(PageStoreTest, AssemblyRefusesWhatIsNotWhole) {
  ASSERT_TRUE(put(0, 1));
  ASSERT_TRUE(packs_->seal());
  const fs::path checkpoint = directory_.path() / "checkpoint";
  fs::create_directories(checkpoint / "images");
  fs::create_directories(checkpoint / "memory");
  const fs::path pack = directory_.path() / "packs" / store_->map().packs[0].hash;
  auto refusal = [&] {
    const fs::path images = directory_.path() / "images";
    fs::remove_all(images);
    fs::create_directories(images);
    auto made = assemble_all(checkpoint, images);
    EXPECT_FALSE(made);
    return made ? ""
                : fmt::format("{}: {}", to_string(made.error().code()), made.error().message());
  };
  std::ofstream(checkpoint / layout::map_file(7)) << "nonsense";
  EXPECT_THAT(refusal(), HasSubstr("memory/7.map"));
  std::ofstream(checkpoint / layout::map_file(7), std::ios::binary)
      << store::encode_page_map(store_->map());
  EXPECT_THAT(refusal(), HasSubstr("pagemap-7.img")) << "no image of CRIU's";
  criu::PagemapImage image{4, {{base + page_bytes, 2, criu::pagemap_present}}};
  ASSERT_TRUE(criu::write_pagemap(criu::pagemap_path(checkpoint / "images", 7), image));
  ASSERT_TRUE(
      sys::write_file_durable(criu::pages_path(checkpoint / "images", 4), content_of(1, 1)));
  EXPECT_THAT(refusal(), testing::AllOf(HasSubstr("damaged"), HasSubstr("missing"))) << "no pack";
  fs::create_directories(checkpoint / "packs");
  fs::copy_file(pack, checkpoint / "packs" / pack.filename());
  EXPECT_THAT(refusal(), HasSubstr("damaged")) << "CRIU's pages are cut short";
  std::ofstream(checkpoint / "memory/x.map") << "";
  EXPECT_THAT(refusal(), HasSubstr("x.map"));
}

TEST_F(PageStoreTest, AFullDiskIsSaidAndVoidsThePacks) {
  ASSERT_TRUE(put(0, 1));
  fs::remove_all(directory_.path() / "packs");
  EXPECT_FALSE(packs_->seal()) << "it can't be named";
  EXPECT_TRUE(packs_->broken());
  EXPECT_FALSE(put(1, 1));
}

}  // namespace
}  // namespace baton::agent
