// What differs between two checkpoints: pages against a simple model, and private trees.
#include <gtest/gtest.h>

#include <fstream>
#include <random>

#include "fakes/temp_dir.h"
#include "store/checkpoint_diff.h"
#include "store/pack.h"
#include "store/tree_archive.h"

namespace baton::store {
namespace {

namespace fs = std::filesystem;

// A page's content by a number; 0: zeroes.
std::string page(std::uint32_t content) {
  return std::string(kPageBytes, static_cast<char>(content));
}

using Space = std::map<std::uint64_t, std::uint32_t>;  // page number -> content

class DiffTest : public testing::Test {
 protected:
  // A map of these pages, in packs of at most `per_pack` pages below `folder`.
  PageMap make(const Space& space, const fs::path& folder, std::size_t per_pack) {
    fs::create_directories(folder);
    PageMap map;
    std::unique_ptr<PackWriter> writer;
    std::vector<std::string> hashes;
    auto seal = [&] {
      if (!writer) return;
      auto sealed = writer->seal();
      ASSERT_TRUE(sealed);
      map.packs.push_back({sealed->hash, sealed->pages});
      writer.reset();
    };
    for (const auto& [number, content] : space) {
      if (content == 0) {
        map.append({number * kPageBytes, 1, kZeroPages, 0});
        continue;
      }
      if (!writer) writer = std::move(*PackWriter::create(folder));
      const std::string bytes = page(content);
      map.append(
          {number * kPageBytes, 1, static_cast<std::uint32_t>(map.packs.size()), writer->pages()});
      EXPECT_TRUE(writer->add(bytes.data(), hash_page(bytes.data())));
      if (writer->pages() == per_pack) seal();
    }
    seal();
    return map;
  }
  fs::path folder(const char* name) const { return directory_.path() / name; }
  sys::OpenSource packs(const char* name) const { return sys::sources_in(folder(name)); }
  fakes::TempDir directory_;
};

Result<std::map<std::string, TreeEntry>> list(const fs::path& archive,
                                              std::span<const FileContent> contents = {}) {
  BATON_TRY(const auto source, sys::open_source(archive));
  return list_tree(*source, contents);
}

PageDiff model(const Space& a, const Space& b) {
  PageDiff diff;
  for (const auto& [number, content] : a) {
    auto other = b.find(number);
    if (other == b.end())
      ++diff.vanished;
    else
      ++(other->second == content ? diff.same : diff.changed);
  }
  for (const auto& [number, content] : b) diff.appeared += a.contains(number) ? 0 : 1;
  return diff;
}

TEST_F(DiffTest, RandomMapsFollowTheModel) {
  const std::uint64_t seed = std::random_device()();
  std::mt19937_64 random(seed);
  for (int round = 0; round < 100; ++round) {
    SCOPED_TRACE(fmt::format("seed {}, round {}", seed, round));
    Space a, b;
    for (std::uint64_t number = 1; number < 200; ++number) {
      if (random() % 3) a[number] = random() % 8 ? static_cast<std::uint32_t>(1 + random() % 3) : 0;
      // Long stretches that stay, and some that do not.
      if (a.contains(number) && (number / 20 % 2 || random() % 2))
        b[number] = a[number];
      else if (random() % 3)
        b[number] = static_cast<std::uint32_t>(random() % 4);
    }
    const PageMap map_a = make(a, folder("a"), 1 + random() % 40);
    const PageMap map_b = make(b, folder("b"), 1 + random() % 40);
    auto diff = diff_pages(map_a, packs("a"), map_b, packs("b"));
    ASSERT_TRUE(diff) << diff.error().message();
    ASSERT_EQ(*diff, model(a, b));
    ASSERT_EQ(diff_pages(map_a, packs("a"), map_a, packs("a"))->same, a.size());
  }
}

TEST_F(DiffTest, AMissingPackIsDamage) {
  const PageMap a = make({{1, 1}}, folder("a"), 9), b = make({{1, 2}}, folder("b"), 9);
  fs::remove(folder("b") / b.packs[0].hash);
  EXPECT_EQ(diff_pages(a, packs("a"), b, packs("b")).error().code(), ErrorCode::Damaged);
  EXPECT_EQ(diff_pages({}, packs("a"), b, packs("b"))->appeared, 1u);
}

TEST_F(DiffTest, TreesAreListedByWhatIsInThem) {
  const fs::path tree = folder("tree"), archive = folder("tree.tar");
  fs::create_directories(tree / "sub");
  std::ofstream(tree / "sub/file") << "content";
  std::ofstream(tree / "kept") << "kept";
  fs::create_symlink("file", tree / "sub/link");
  ASSERT_TRUE(archive_tree(tree, archive));
  auto before = list(archive);
  ASSERT_TRUE(before) << before.error().message();
  EXPECT_EQ(before->size(), 3u);
  const auto name = [&](const char* ending) {
    for (const auto& [path, entry] : *before)
      if (path.ends_with(ending)) return path;
    return std::string();
  };
  EXPECT_EQ(before->at(name("sub/file")).bytes, 7u);
  const auto time = fs::last_write_time(tree / "sub/file");
  std::ofstream(tree / "sub/file") << "CONTENT";
  fs::last_write_time(tree / "sub/file", time);  // it lies about its time
  ASSERT_TRUE(archive_tree(tree, archive));
  auto after = list(archive);
  ASSERT_TRUE(after);
  EXPECT_NE(after->at(name("sub/file")).state, before->at(name("sub/file")).state);
  EXPECT_EQ(after->at(name("kept")).state, before->at(name("kept")).state);
  // A large one, whose content lies elsewhere.
  const std::string one(32, '1'), other(32, '2');
  TreeArchiveOptions elsewhere;
  elsewhere.keep_elsewhere = [](int, const std::string& path,
                                const struct stat&) -> Result<std::optional<std::uint64_t>> {
    if (path.ends_with("kept")) return 0;
    return std::nullopt;
  };
  ASSERT_TRUE(archive_tree(tree, archive, elsewhere));
  EXPECT_EQ(list(archive).error().code(), ErrorCode::Damaged);
  const std::vector<FileContent> first = {{.size = 5 << 20, .chunks = {one, one}}};
  const std::vector<FileContent> second = {{.size = 5 << 20, .chunks = {one, other}}};
  EXPECT_EQ(list(archive, first)->at(name("kept")).bytes, 5u << 20);
  EXPECT_EQ(list(archive, first)->at(name("kept")).state,
            list(archive, first)->at(name("kept")).state);
  EXPECT_NE(list(archive, first)->at(name("kept")).state,
            list(archive, second)->at(name("kept")).state);
  fs::resize_file(archive, fs::file_size(archive) / 3);
  EXPECT_EQ(list(archive).error().code(), ErrorCode::Damaged);
}

TEST_F(DiffTest, TheChunksOfLargeFilesAreReadFromTheDescription) {
  const fs::path path = folder("checkpoint.json");
  const std::string hash(32, 'a');
  std::ofstream(path) << R"({"format": 2, "trees": [{"name": "run", "archive": "tree-1.tar"},
      {"name": "upper", "archive": "tree-0.tar", "contents":
       [{"size": 9, "sparse": false, "chunks": [")"
                      << hash << R"("]}]}]})";
  auto contents = read_contents(**sys::open_source(path));
  ASSERT_TRUE(contents) << contents.error().message();
  ASSERT_EQ(contents->size(), 2u);
  EXPECT_EQ(contents->at("tree-0.tar"),
            (std::vector<FileContent>{{.size = 9, .sparse = false, .chunks = {hash}}}));
  std::ofstream(path) << R"({"trees": [{"archive": 7}]})";
  EXPECT_EQ(read_contents(**sys::open_source(path)).error().code(), ErrorCode::Damaged);
}

}  // namespace
}  // namespace baton::store
