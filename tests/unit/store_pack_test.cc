// Packs and maps of pages: what is written is read, and nothing that was harmed is.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/resource.h>

#include <fstream>
#include <random>
#include <thread>
#include <vector>

#include "fakes/temp_dir.h"
#include "store/pack.h"
#include "store/page_map.h"
#include "sys/file.h"

namespace baton::store {
namespace {

using testing::HasSubstr;

// Compressible, incompressible and in between.
std::string make_page(std::uint32_t number) {
  std::mt19937_64 random(number);
  std::string page(kPageBytes, static_cast<char>(number));
  const std::size_t noise = number % 3 * kPageBytes / 2;
  for (std::size_t i = 0; i < noise; ++i) page[i] = static_cast<char>(random());
  return page;
}

class PackTest : public testing::Test {
 protected:
  SealedPack write(std::uint32_t pages, bool compress = true) {
    auto writer = PackWriter::create(directory_.path());
    EXPECT_TRUE(writer) << writer.error().message();
    (*writer)->set_compression(compress);
    for (std::uint32_t i = 0; i < pages; ++i) {
      std::string page = make_page(i);
      EXPECT_TRUE((*writer)->add(page.data(), hash_page(page.data())));
    }
    auto sealed = (*writer)->seal();
    EXPECT_TRUE(sealed) << sealed.error().message();
    return *sealed;
  }
  std::filesystem::path path(const SealedPack& pack) const { return directory_.path() / pack.hash; }
  // Reads all of a pack; the error's message, or nothing.
  static std::string problem(const std::filesystem::path& path) {
    auto reader = PackReader::open(path);
    if (!reader) {
      EXPECT_EQ(reader.error().code(), ErrorCode::Damaged) << reader.error().message();
      return reader.error().message();
    }
    std::string content((*reader)->pages() * kPageBytes, '\0');
    auto read = (*reader)->read(0, (*reader)->pages(), content.data());
    if (read) return {};
    EXPECT_EQ(read.error().code(), ErrorCode::Damaged) << read.error().message();
    return read.error().message();
  }
  fakes::TempDir directory_;
};

TEST_F(PackTest, WhatIsWrittenIsRead) {
  for (std::uint32_t pages : {0u, 1u, 15u, 16u, 17u, 500u}) {
    SealedPack pack = write(pages);
    EXPECT_EQ(pack.pages, pages);
    EXPECT_EQ(pack.hash, *hash_file(path(pack)));
    EXPECT_EQ(pack.bytes, std::filesystem::file_size(path(pack)));
    auto reader = PackReader::open(path(pack));
    ASSERT_TRUE(reader) << reader.error().message();
    std::mt19937 random(pages);
    for (int i = 0; i < 50 && pages > 0; ++i) {
      std::uint32_t first = random() % pages, count = 1 + random() % (pages - first);
      std::string content(count * kPageBytes, '\0');
      ASSERT_TRUE((*reader)->read(first, count, content.data()));
      for (std::uint32_t n = 0; n < count; ++n)
        ASSERT_EQ(content.compare(n * kPageBytes, kPageBytes, make_page(first + n)), 0);
    }
    std::string content(kPageBytes, '\0');
    EXPECT_FALSE((*reader)->read(pages, 1, content.data()));
  }
}

TEST_F(PackTest, ReadersOfOnePackDoNotMeet) {
  SealedPack pack = write(300);
  auto first = PackReader::open(path(pack));
  ASSERT_TRUE(first) << first.error().message();
  std::filesystem::remove(path(pack));
  std::vector<std::thread> threads;
  for (std::uint32_t seed = 0; seed < 3; ++seed)
    threads.emplace_back([seed, reader = (*first)->another()] {
      std::mt19937 random(seed);
      std::string content(kPageBytes, '\0');
      for (int i = 0; i < 200; ++i) {
        const std::uint32_t page = random() % reader->pages();
        ASSERT_TRUE(reader->read(page, 1, content.data()));
        ASSERT_EQ(content, make_page(page));
        ASSERT_EQ(reader->hash(page), hash_page(content.data()));
      }
    });
  for (auto& thread : threads) thread.join();
}

TEST_F(PackTest, EqualPacksAreOneFileAndCompressionIsAChoice) {
  SealedPack one = write(100), again = write(100), plain = write(100, false);
  EXPECT_EQ(one.hash, again.hash);
  EXPECT_NE(one.hash, plain.hash);
  EXPECT_LT(one.bytes, plain.bytes);
  EXPECT_EQ(problem(path(plain)), "");
}

TEST_F(PackTest, EveryBitIsGuarded) {
  SealedPack pack = write(40);
  auto whole = sys::read_file(path(pack));
  ASSERT_TRUE(whole);
  auto harmed = directory_.path() / "harmed";
  std::mt19937 random(1);
  for (int i = 0; i < 400; ++i) {
    std::string bytes = *whole;
    // The head, the foot and the index first, then anywhere.
    std::size_t at = i < 16 ? i : i < 240 ? bytes.size() - 1 - i : random() % bytes.size();
    bytes[at] = static_cast<char>(bytes[at] ^ (1 << random() % 8));
    std::ofstream(harmed, std::ios::binary | std::ios::trunc) << bytes;
    EXPECT_NE(problem(harmed), "") << "byte " << at << " of " << bytes.size();
  }
  for (int i = 0; i < 100; ++i) {
    std::ofstream(harmed, std::ios::binary | std::ios::trunc)
        << whole->substr(0, random() % whole->size());
    EXPECT_NE(problem(harmed), "");
  }
  EXPECT_THAT(problem(directory_.path() / "absent"), HasSubstr("missing"));
}

PageMap random_map(std::mt19937_64& random) {
  PageMap map;
  for (std::uint64_t i = random() % 5; i > 0; --i)
    map.packs.push_back({hash_bytes(std::to_string(random())),
                         static_cast<std::uint32_t>(1 + random() % kPackPagesMax)});
  std::uint64_t address = 0x5000'0000'0000 + random() % 100 * kPageBytes;
  for (std::uint64_t i = random() % 200; i > 0; --i) {
    MapRun run{address, 1 + random() % 9, kZeroPages, 0};
    if (!map.packs.empty() && random() % 4) {
      run.pack = static_cast<std::uint32_t>(random() % map.packs.size());
      run.pages = std::min<std::uint64_t>(run.pages, map.packs[run.pack].pages);
      run.first =
          static_cast<std::uint32_t>(random() % (map.packs[run.pack].pages - run.pages + 1));
    }
    map.append(run);
    address += (run.pages + random() % 3) * kPageBytes;
  }
  return map;
}

TEST(PageMap, WhatIsWrittenIsReadAndHarmIsFound) {
  std::mt19937_64 random(3);
  for (int i = 0; i < 300; ++i) {
    PageMap map = random_map(random);
    std::string bytes = encode_page_map(map);
    auto decoded = decode_page_map(bytes);
    ASSERT_TRUE(decoded) << decoded.error().message();
    ASSERT_EQ(*decoded, map);
    std::string harmed = bytes;
    std::size_t at = random() % harmed.size();
    harmed[at] = static_cast<char>(harmed[at] ^ (1 << random() % 8));
    auto refused = decode_page_map(harmed);
    // A bit in zstd's own frame may mean nothing; what comes out is right then.
    if (refused) {
      EXPECT_EQ(*refused, map) << "byte " << at;
    }
    EXPECT_FALSE(decode_page_map(std::string_view(bytes).substr(0, random() % bytes.size())));
  }
}

// Where each page lies, in words.
std::map<std::uint64_t, std::string> pages_of(const PageMap& map) {
  std::map<std::uint64_t, std::string> pages;
  for (const MapRun& run : map.runs)
    for (std::uint64_t i = 0; i < run.pages; ++i)
      pages[run.address + i * kPageBytes] =
          run.pack == kZeroPages ? "zeroes"
                                 : fmt::format("{} {}", map.packs[run.pack].hash, run.first + i);
  return pages;
}

TEST(PageMap, WhatChangedIsReadAsIfItHadBeenWrittenAtOnce) {
  std::mt19937_64 random(5);
  for (int i = 0; i < 300; ++i) {
    const PageMap before = random_map(random);
    PageMap changes = random_map(random);
    if (random() % 2 && !before.packs.empty() && !changes.packs.empty()) {
      changes.packs.front() = before.packs.back();
      changes.runs.clear();
      changes.runs.push_back({0x5000'0000'3000, 1, 0, changes.packs[0].pages - 1});
    }
    for (MapRun& run : changes.runs)
      if (random() % 3 == 0) run = {run.address, run.pages, kNoPages, 0};
    auto expected = pages_of(before);
    for (const MapRun& run : changes.runs)
      for (std::uint64_t page = 0; page < run.pages; ++page)
        expected.erase(run.address + page * kPageBytes);
    PageMap there = changes;
    std::erase_if(there.runs, [](const MapRun& run) { return run.pack == kNoPages; });
    expected.merge(pages_of(there));

    const std::string bytes = encode_changed_map(encode_page_map(before), changes);
    auto decoded = decode_page_map(bytes);
    ASSERT_TRUE(decoded) << decoded.error().message();
    ASSERT_EQ(pages_of(*decoded), expected);
    for (std::size_t place = 0; place < before.packs.size(); ++place)
      ASSERT_EQ(decoded->packs[place], before.packs[place]);
    EXPECT_EQ(*decode_page_map(encode_page_map(*decoded)), *decoded) << "it is like any other";

    std::string harmed = bytes;
    const std::size_t at = random() % harmed.size();
    harmed[at] = static_cast<char>(harmed[at] ^ (1 << random() % 8));
    if (auto refused = decode_page_map(harmed)) {
      EXPECT_EQ(*refused, *decoded) << "byte " << at;
    }
    EXPECT_FALSE(decode_page_map(std::string_view(bytes).substr(0, random() % bytes.size())));
  }
}

// A program that fills its memory with the same makes packs that are the same.
TEST(PageMap, ChangesMayNameOnePackTwice) {
  const MapPack pack{hash_bytes("a"), 10};
  const PageMap changes{{pack, pack}, {{0x1000, 10, 0, 0}, {0xb000, 10, 1, 0}}};
  const auto decoded = decode_page_map(encode_changed_map(encode_page_map({}), changes));
  ASSERT_TRUE(decoded) << decoded.error().message();
  EXPECT_EQ(pages_of(*decoded), pages_of(changes));
}

TEST(PageMap, HalvesOfTwoMapsAreRefused) {
  const std::string a = encode_changed_map(encode_page_map({{}, {{0x1000, 3, kZeroPages, 0}}}),
                                           {{}, {{0x2000, 1, kNoPages, 0}}});
  const std::string b = encode_changed_map(encode_page_map({{}, {{0x1000, 9, kZeroPages, 0}}}),
                                           {{}, {{0x4000, 1, kNoPages, 0}}});
  ASSERT_EQ(a.size(), b.size());
  std::uint64_t before_bytes = 0;
  std::memcpy(&before_bytes, a.data() + a.size() - 32, sizeof before_bytes);
  EXPECT_TRUE(decode_page_map(a));
  const auto mixed = decode_page_map(a.substr(0, before_bytes) + b.substr(before_bytes));
  ASSERT_FALSE(mixed);
  EXPECT_EQ(mixed.error().code(), ErrorCode::Damaged);
  EXPECT_FALSE(decode_page_map(a.substr(0, before_bytes))) << "without its changes";
  // Gone from what?
  EXPECT_FALSE(decode_page_map(encode_page_map({{}, {{0x2000, 1, kNoPages, 0}}})));
}

TEST(PageMap, ASizeThatLiesTakesNoMemory) {
  PageMap map;
  map.runs = {{0x1000, 1, kZeroPages, 0}};
  std::string bytes = encode_page_map(map);
  // Megabytes behind it make many runs plausible.
  const std::uint64_t runs = 9'000'000, body_bytes = runs * 40;
  std::memcpy(bytes.data() + 16, &runs, sizeof runs);
  std::memcpy(bytes.data() + 24, &body_bytes, sizeof body_bytes);
  bytes.resize(2 << 20, 'x');
  rusage before{}, after{};
  ::getrusage(RUSAGE_SELF, &before);
  auto decoded = decode_page_map(bytes);
  ::getrusage(RUSAGE_SELF, &after);
  ASSERT_FALSE(decoded);
  EXPECT_THAT(decoded.error().message(), HasSubstr("does not decompress"));
  EXPECT_LT(after.ru_maxrss - before.ru_maxrss, 64 << 10) << "KiB";
}

// So many runs of a page of zeroes with a page between them, as a program can have them.
PageMap striped_map(std::uint64_t runs) {
  PageMap map;
  for (std::uint64_t i = 0; i < runs; ++i) map.runs.push_back({i * 0x2000, 1, kZeroPages, 0});
  return map;
}

TEST(PageMap, WhatDecompressesToManyRunsIsAsLargeAsTheyNeed) {
  for (std::uint64_t runs : {1u << 20, 3u << 20}) {
    const PageMap map = striped_map(runs);
    const std::string bytes = encode_page_map(map);
    EXPECT_GE(bytes.size() * 4 + (1u << 20), runs);
    EXPECT_LT(bytes.size() * 4, std::max<std::uint64_t>(runs - (1u << 20), 16u << 10) + 1024);
    auto decoded = decode_page_map(bytes);
    ASSERT_TRUE(decoded) << decoded.error().message();
    EXPECT_EQ(*decoded, map);
  }
}

TEST(PageMap, AFewBytesThatDecompressToManyRunsAreRefused) {
  const std::string honest = encode_page_map(striped_map(3 << 20));
  // The frame that is passed over, at the end.
  const std::string magic = "\x50\x2a\x4d\x18";
  auto refused = decode_page_map(honest.substr(0, honest.rfind(magic)));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), ErrorCode::Damaged);
  EXPECT_THAT(refused.error().message(), HasSubstr("more runs than its size allows"));
  // Padding is all that may follow, and once.
  EXPECT_FALSE(decode_page_map(honest + 'x'));
  EXPECT_FALSE(decode_page_map(honest + magic + std::string(4, '\0')));
}

TEST(PageMap, IsSmall) {
  // 1 GiB of which one page in hundred was written anew in each of 60 checkpoints.
  std::mt19937_64 random(4);
  constexpr std::uint64_t pages = 262'144;
  std::vector<std::uint32_t> newest(pages, 0), number(pages);
  PageMap map;
  for (std::uint32_t pack = 0; pack < 60; ++pack) {
    std::uint32_t count = 0;
    for (std::uint64_t page = 0; page < pages; ++page) {
      if (pack != 0 && random() % 100) continue;
      newest[page] = pack == 0 ? static_cast<std::uint32_t>(page / kPackPagesMax) : 16 + pack;
      number[page] = pack == 0 ? static_cast<std::uint32_t>(page % kPackPagesMax) : count++;
    }
  }
  for (std::uint32_t pack = 0; pack < 80; ++pack)
    map.packs.push_back({hash_bytes(std::to_string(pack)), kPackPagesMax});
  for (std::uint64_t page = 0; page < pages; ++page)
    map.append({page * kPageBytes, 1, newest[page], number[page]});
  EXPECT_LT(encode_page_map(map).size(), 400'000u);
}

TEST_F(PackTest, ExpandedItReadsTheSameWithoutItsFile) {
  const SealedPack pack = write(100);
  auto reader = PackReader::open(path(pack));
  ASSERT_TRUE(reader);
  auto expanded = (*reader)->expanded();
  ASSERT_TRUE(expanded) << expanded.error().message();
  ASSERT_EQ((*expanded)->pages(), 100u);
  std::filesystem::resize_file(path(pack), 10);
  reader->reset();
  const auto another = (*expanded)->another();
  expanded->reset();
  std::string content(3 * kPageBytes, '\0');
  for (std::uint32_t first : {0, 14, 97}) {
    ASSERT_TRUE(another->read(first, 3, content.data()));
    EXPECT_EQ(content, make_page(first) + make_page(first + 1) + make_page(first + 2));
  }
  EXPECT_FALSE(another->read(98, 3, content.data()));
  const auto view = another->view(50, 2, content.data());
  ASSERT_TRUE(view);
  EXPECT_NE(*view, content.data());
  EXPECT_EQ(std::string(*view, 2 * kPageBytes), make_page(50) + make_page(51));
  EXPECT_FALSE(another->view(99, 2, content.data()));
  EXPECT_TRUE((*another->expanded())->read(0, 3, content.data()));
}

TEST_F(PackTest, ADamagedPackIsNotExpanded) {
  const SealedPack pack = write(100, false);
  std::fstream(path(pack), std::ios::in | std::ios::out | std::ios::binary)
      .seekp(50 * kPageBytes)
      .put('!');
  auto reader = PackReader::open(path(pack));
  ASSERT_TRUE(reader);
  const auto expanded = (*reader)->expanded();
  ASSERT_FALSE(expanded);
  EXPECT_EQ(expanded.error().code(), ErrorCode::Damaged);
}

}  // namespace
}  // namespace baton::store
