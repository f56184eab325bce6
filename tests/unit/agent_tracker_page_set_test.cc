#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <map>
#include <random>
#include <set>

#include "agent/engine/assemble.h"
#include "agent/engine/page_set.h"
#include "criu/image_codec.h"
#include "sys/file.h"

namespace baton::agent {
namespace {

namespace fs = std::filesystem;
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

std::string content_of(std::uint64_t page, std::uint64_t version) {
  std::string content(page_bytes, static_cast<char>('a' + version % 26));
  content.replace(0, 16, fmt::format("{:08} {:06}\n", page % 100'000'000, version % 1'000'000));
  return content;
}

class PageSetTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = "/var/tmp/baton-pages-XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    directory_ = pattern;
  }
  void TearDown() override { (void)sys::remove_tree(directory_); }
  PageStore make_store() {
    auto store = PageStore::create(directory_);
    EXPECT_TRUE(store) << store.error().message();
    return std::move(*store);
  }
  // What write_to() produces.
  std::string written(const PageStore& store, const PageSet& pages) {
    auto path = directory_ / "written";
    auto file = sys::open_file(path, O_RDWR | O_CREAT | O_TRUNC);
    auto status = store.write_to(file->get(), pages);
    EXPECT_TRUE(status) << status.error().message();
    auto content = sys::read_file(path, 1u << 30);
    return content ? *content : "";
  }
  fs::path directory_;
};

TEST_F(PageSetTest, OperationsAgreeWithPlainSets) {
  for (int seed = 0; seed < 500; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937_64 random(static_cast<unsigned>(seed));
    auto a = random_pages(random, 60), b = random_pages(random, 60);
    std::set<std::uint64_t> all = a, both, rest;
    all.insert(b.begin(), b.end());
    for (auto page : a) (b.contains(page) ? both : rest).insert(page);
    ASSERT_EQ(to_pages(unite(from_pages(a), from_pages(b))), all);
    ASSERT_EQ(to_pages(intersect(from_pages(a), from_pages(b))), both);
    ASSERT_EQ(to_pages(subtract(from_pages(a), from_pages(b))), rest);
    ASSERT_EQ(from_pages(a).pages(), a.size());
  }
}

// Against a map, with everything the tracker does, over three chunks of addresses.
TEST_F(PageSetTest, StoreHoldsTheNewestCopies) {
  constexpr std::uint64_t range = 1400;
  std::mt19937_64 random(5);
  PageStore store = make_store();
  std::map<std::uint64_t, std::uint64_t> model;
  for (std::uint64_t version = 1; version <= 300; ++version) {
    auto pages = random_pages(random, range);
    switch (random() % 4) {
      case 0:
        store.forget(from_pages(pages));
        for (auto page : pages) model.erase(page);
        break;
      case 1:
        if (version % 3) break;
        ASSERT_TRUE(store.keep_only(from_pages(pages)));
        std::erase_if(model, [&](const auto& entry) { return !pages.contains(entry.first); });
        break;
      default: {
        std::uint64_t first = random() % range, count = 1 + random() % 700;
        std::string content;
        for (std::uint64_t page = first; page < first + count; ++page) {
          content += content_of(page, version);
          model[page] = version;
        }
        ASSERT_TRUE(store.put(base + first * page_bytes, content));
      }
    }
    ASSERT_EQ(store.pages_held(), model.size());
  }
  std::set<std::uint64_t> held;
  std::string expected;
  for (auto [page, version] : model) {
    held.insert(page);
    expected += content_of(page, version);
  }
  EXPECT_TRUE(store.missing(from_pages(held)).empty());
  EXPECT_EQ(written(store, from_pages(held)) == expected, true);
}

TEST_F(PageSetTest, StoreNamesWhatItLacks) {
  PageStore store = make_store();
  ASSERT_TRUE(store.put(base, content_of(0, 1) + content_of(1, 1)));
  EXPECT_EQ(to_pages(store.missing(from_pages({0, 1, 2, 600}))), (std::set<std::uint64_t>{2, 600}));
  auto file = sys::open_file(directory_ / "x", O_RDWR | O_CREAT);
  EXPECT_FALSE(store.write_to(file->get(), from_pages({0, 2})));
  EXPECT_EQ(fs::file_size(directory_ / "x"), 0u);
}

TEST_F(PageSetTest, AssemblesBetweenDumpedPages) {
  PageStore store = make_store();
  for (std::uint64_t page : {1, 2, 3, 9})
    ASSERT_TRUE(store.put(base + page * page_bytes, content_of(page, 1)));
  // CRIU dumped 0, 5 and 6, and 9.
  criu::PagemapImage image{4,
                           {{base, 1, criu::pagemap_present},
                            {base + 5 * page_bytes, 2, criu::pagemap_present | criu::pagemap_lazy},
                            {base + 9 * page_bytes, 1, criu::pagemap_present}}};
  ASSERT_TRUE(criu::write_pagemap(criu::pagemap_path(directory_, 7), image));
  auto pages_path = criu::pages_path(directory_, 4);
  ASSERT_TRUE(sys::write_file_durable(
      pages_path, content_of(0, 8) + content_of(5, 8) + content_of(6, 8) + content_of(9, 8)));
  auto twice = assemble_memory(directory_, 7, from_pages({1, 2, 3, 9}), store);
  ASSERT_TRUE(twice) << twice.error().message();
  EXPECT_EQ(*twice, 1u) << "page 9 is in both";
  auto assembled = criu::read_pagemap(criu::pagemap_path(directory_, 7));
  ASSERT_TRUE(assembled);
  EXPECT_EQ(assembled->runs,
            (std::vector<criu::PagemapRun>{
                {base, 1, criu::pagemap_present},
                {base + page_bytes, 3, criu::pagemap_present},
                {base + 5 * page_bytes, 2, criu::pagemap_present | criu::pagemap_lazy},
                {base + 9 * page_bytes, 1, criu::pagemap_present}}));
  auto content = sys::read_file(pages_path);
  ASSERT_TRUE(content);
  EXPECT_EQ(*content == content_of(0, 8) + content_of(1, 1) + content_of(2, 1) + content_of(3, 1) +
                            content_of(5, 8) + content_of(6, 8) + content_of(9, 8),
            true);
}

TEST_F(PageSetTest, AssemblyRefusesImagesThatAreCutShort) {
  PageStore store = make_store();
  ASSERT_TRUE(store.put(base, content_of(0, 1)));
  EXPECT_FALSE(assemble_memory(directory_, 7, from_pages({0}), store)) << "no image at all";
  criu::PagemapImage image{4, {{base + page_bytes, 2, criu::pagemap_present}}};
  ASSERT_TRUE(criu::write_pagemap(criu::pagemap_path(directory_, 7), image));
  ASSERT_TRUE(sys::write_file_durable(criu::pages_path(directory_, 4), content_of(1, 1)));
  auto outcome = assemble_memory(directory_, 7, from_pages({0}), store);
  ASSERT_FALSE(outcome);
  EXPECT_EQ(outcome.error().code(), ErrorCode::Damaged) << outcome.error().message();
}

}  // namespace
}  // namespace baton::agent
