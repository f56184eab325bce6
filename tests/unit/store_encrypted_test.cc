// A store with a key: what its users see is what they see without; what a thief sees is nothing.
#include <gtest/gtest.h>

#include <fstream>
#include <random>

#include "fakes/temp_dir.h"
#include "store/hash.h"
#include "store/inventory.h"
#include "store/pack.h"
#include "store/reader.h"
#include "store/upload.h"
#include "sys/file.h"

namespace baton::store {
namespace {

const JobId kJob(7), kOther(8);
using Files = std::map<std::string, std::string>;

std::string shared(const char* folder, const std::string& content) {
  return fmt::format("{}/{}", folder, hash_bytes(content));
}

class EncryptedStoreTest : public testing::Test {
 protected:
  void SetUp() override { reopen(true); }
  void reopen(bool with_key) {
    store_.reset();
    StoreOptions options;
    if (with_key) {
      options.keys.emplace();
      options.keys->current.data()[0] = 'k';
    }
    auto store = CheckpointStore::open(root(), std::move(options));
    ASSERT_TRUE(store) << store.error().message();
    store_ = std::move(*store);
  }
  // Those in `linked` are expected to be there already.
  Status publish(JobId job, std::uint64_t number, const Files& files,
                 const std::set<std::string>& linked = {}) {
    BATON_TRY(auto upload, store_->begin_upload(job));
    for (const auto& [path, data] : files) {
      if (linked.contains(path)) {
        BATON_CHECK(upload->link_shared_file(path, data.size(), 0644));
        continue;
      }
      BATON_CHECK(upload->begin_file(path, data.size(), 0644));
      BATON_CHECK(upload->write(data));
      BATON_CHECK(upload->end_file(hash_bytes(data)));
    }
    return upload->publish(CheckpointNumber(number), R"({"node":"node-1"})");
  }
  Result<Files> read_all(JobId job, std::uint64_t number) {
    BATON_TRY(auto reader, store_->open_reader(job, CheckpointNumber(number)));
    Files files;
    for (const auto& file : reader->manifest().files)
      BATON_CHECK(reader->read(file, 100'000, [&](std::string_view data, bool) {
        files[file.path] += data;
        return Status();
      }));
    return files;
  }
  bool has(JobId job, const std::string& content) {
    return store_->missing_shared_files(job, {hash_bytes(content)}).empty();
  }
  fs::path place(JobId job, std::uint64_t number, const std::string& path) {
    auto reader = store_->open_reader(job, CheckpointNumber(number));
    EXPECT_TRUE(reader);
    for (const auto& file : (*reader)->manifest().files)
      if (file.path == path) return (*reader)->place(file);
    ADD_FAILURE() << path;
    return {};
  }
  std::string damage(JobId job, std::uint64_t number) {
    auto status = store_->verify(job, CheckpointNumber(number));
    EXPECT_FALSE(status);
    if (status) return "";
    EXPECT_EQ(status.error().code(), ErrorCode::Damaged) << status.error().message();
    return status.error().message();
  }
  // Whether a file below the store's folder, or the name of one, has it.
  bool on_disk(const std::string& text) {
    for (const auto& entry : fs::recursive_directory_iterator(root())) {
      if (entry.path().string().find(text) != std::string::npos) return true;
      if (entry.is_regular_file() && sys::read_file(entry.path())->find(text) != std::string::npos)
        return true;
    }
    return false;
  }
  static void exchange(const fs::path& a, const fs::path& b) {
    const fs::path aside = a.string() + ".aside";
    fs::rename(a, aside);
    fs::rename(b, a);
    fs::rename(aside, b);
  }
  const fs::path& root() const { return directory_.path(); }

  fakes::TempDir directory_;
  std::unique_ptr<CheckpointStore> store_;
};

TEST_F(EncryptedStoreTest, WhatIsPublishedComesBackAndIsNotOnDisk) {
  const std::string secret = "correct horse battery staple ";
  std::string pages;
  while (pages.size() < 300'000) pages += secret;
  const Files files = {{shared("packs", pages), pages},
                       {shared("base-files", "libc"), "libc"},
                       {"images/core-2.img", secret},
                       {"tree-0.tar", pages},
                       {"empty", ""}};
  auto published = publish(kJob, 3, files);
  ASSERT_TRUE(published) << published.error().message();
  EXPECT_EQ(*read_all(kJob, 3), files);
  reopen(true);
  EXPECT_EQ(*read_all(kJob, 3), files);
  EXPECT_EQ((*store_->open_reader(kJob, CheckpointNumber(3)))->manifest().info_json,
            R"({"node":"node-1"})");
  for (const std::string& text : {std::string("horse"), hash_bytes(pages), hash_bytes("libc"),
                                  std::string("node-1"), std::string("xxh3")})
    EXPECT_FALSE(on_disk(text)) << text;
  EXPECT_TRUE(store_->check(kJob, CheckpointNumber(3), {})->damage.empty());
  EXPECT_TRUE(find_orphans(*store_, {{kJob, CheckpointNumber(3)}})->empty());
}

TEST_F(EncryptedStoreTest, AnyRangeOfAPackIsRead) {
  fakes::TempDir made;
  auto writer = PackWriter::create(made.path());
  std::mt19937 random(1);
  std::vector<std::string> pages;
  for (int i = 0; i < 500; ++i) {
    std::string& page = pages.emplace_back(kPageBytes, static_cast<char>(i));
    for (std::size_t at = 0; i % 3 && at < kPageBytes; ++at) page[at] = static_cast<char>(random());
    ASSERT_TRUE((*writer)->add(page.data(), hash_page(page.data())));
  }
  const std::string name = (*writer)->seal()->hash;
  ASSERT_TRUE(publish(kJob, 1, {{"packs/" + name, *sys::read_file(made.path() / name)}}));
  auto reader = store_->open_reader(kJob, CheckpointNumber(1));
  auto pack = PackReader::open(sys::sources_below((*reader)->sources(), "packs/"), name);
  ASSERT_TRUE(pack) << pack.error().message();
  for (int i = 0; i < 300; ++i) {
    const auto first = static_cast<std::uint32_t>(random() % 500);
    const auto count = static_cast<std::uint32_t>(random() % std::min(40u, 500 - first) + 1);
    std::string read(count * kPageBytes, '\0');
    ASSERT_TRUE((*pack)->read(first, count, read.data()));
    for (std::uint32_t page = 0; page < count; ++page)
      ASSERT_EQ(read.substr(page * kPageBytes, kPageBytes), pages[first + page]);
  }
  const StoreStats stats = measure(*store_, {{kJob, CheckpointNumber(1)}});
  EXPECT_EQ(stats.page_bytes, 500 * kPageBytes);
  EXPECT_EQ(stats.unencrypted, 0u);
  EXPECT_EQ((*reader)->sources()("packs/none").error().code(), ErrorCode::NotFound);
}

TEST_F(EncryptedStoreTest, FilesAreSharedWithinAJobAlone) {
  const std::string pack = shared("packs", "pages");
  ASSERT_TRUE(publish(kJob, 1, {{pack, "pages"}}));
  EXPECT_TRUE(has(kJob, "pages"));
  EXPECT_FALSE(has(kOther, "pages"));
  ASSERT_TRUE(publish(kJob, 2, {{pack, "pages"}, {"a", "a"}}, {pack}));
  EXPECT_EQ(publish(kOther, 1, {{pack, "pages"}}, {pack}).error().code(), ErrorCode::NotFound);
  ASSERT_TRUE(publish(kOther, 1, {{pack, "pages"}}));
  EXPECT_EQ(store_->list_shared_files()->size(), 2u);
  ASSERT_TRUE(store_->remove(kJob, CheckpointNumber(1)));
  EXPECT_EQ(read_all(kJob, 2)->at(pack), "pages");
  ASSERT_TRUE(store_->remove(kJob, CheckpointNumber(2)));
  EXPECT_FALSE(has(kJob, "pages"));
  EXPECT_EQ(read_all(kOther, 1)->at(pack), "pages");
}

TEST_F(EncryptedStoreTest, FilesInEachOthersPlaceAreFoundAndNamed) {
  const Files files = {{"images/a", "content 1"}, {"images/b", "content 2"}};
  ASSERT_TRUE(publish(kJob, 1, files));
  ASSERT_TRUE(publish(kJob, 2, {{"images/a", "content 3"}}));
  ASSERT_TRUE(publish(kOther, 1, files));
  const auto expect_found = [&](const fs::path& a, const fs::path& b, const char* why) {
    exchange(a, b);
    EXPECT_NE(damage(kJob, 1).find(std::string("images/a: ") + why), std::string::npos)
        << damage(kJob, 1);
    EXPECT_FALSE(read_all(kJob, 1));
    exchange(a, b);
    EXPECT_TRUE(store_->verify(kJob, CheckpointNumber(1)));
  };
  const fs::path own = place(kJob, 1, "images/a");
  expect_found(own, place(kJob, 1, "images/b"), "it is another file");
  expect_found(own, place(kJob, 2, "images/a"), "it is another file");
  expect_found(own, place(kOther, 1, "images/a"), "it is a file of job 8");
  // Two manifests, with all that they name.
  exchange(store_->directory(kJob, CheckpointNumber(1)),
           store_->directory(kJob, CheckpointNumber(2)));
  EXPECT_NE(damage(kJob, 1).find("manifest.sealed"), std::string::npos);
  EXPECT_NE(damage(kJob, 2).find("manifest.sealed"), std::string::npos);
}

TEST_F(EncryptedStoreTest, SharedFilesAreCheckedWithoutTheirCheckpoints) {
  const std::string pack = shared("packs", "pages"),
                    chunk = shared("files", std::string(70'000, 'c'));
  ASSERT_TRUE(publish(kJob, 1, {{pack, "pages"}, {chunk, std::string(70'000, 'c')}}));
  ASSERT_TRUE(publish(kJob, 2, {{pack, "pages"}}, {pack}));
  const auto names = *store_->list_shared_files();
  ASSERT_EQ(names.size(), 2u);
  for (const auto& name : names) {
    const auto check = store_->check_shared_file(name);
    ASSERT_TRUE(check);
    EXPECT_EQ(check->damage, "");
    EXPECT_GT(check->bytes, 4u);
  }
  exchange(store_->shared_file(names[0]), store_->shared_file(names[1]));
  for (const auto& name : names)
    EXPECT_NE(store_->check_shared_file(name)->damage.find("its checksum is wrong"),
              std::string::npos);
  EXPECT_FALSE(has(kJob, "pages")) << "the next checkpoint brings it anew";
  ASSERT_TRUE(publish(kJob, 3, {{pack, "pages"}}));
  EXPECT_TRUE(has(kJob, "pages"));
  const fs::path link = place(kJob, 3, pack);
  std::fstream(link, std::ios::in | std::ios::out).seekp(50) << "x";
  const auto check = store_->check_shared_file(link.filename());
  EXPECT_NE(check->damage.find("not what was encrypted"), std::string::npos) << check->damage;
  EXPECT_EQ(check->holders.size(), 1u);
  EXPECT_NE(damage(kJob, 3).find("packs/" + link.filename().string()), std::string::npos)
      << "by the name that it has on disk, which tells nothing";
}

TEST_F(EncryptedStoreTest, WhatIsThereBeforeTheKeyStaysReadableAndIsNotBuiltOn) {
  store_.reset();
  fs::remove_all(root() / "keys");
  reopen(false);
  const std::string pack = shared("packs", "pages");
  ASSERT_TRUE(publish(kJob, 1, {{pack, "pages"}}));
  reopen(true);
  EXPECT_EQ(read_all(kJob, 1)->at(pack), "pages");
  EXPECT_FALSE(has(kJob, "pages"));
  EXPECT_FALSE(publish(kJob, 2, {{pack, "pages"}}, {pack}));
  ASSERT_TRUE(publish(kJob, 2, {{pack, "pages"}}));
  EXPECT_EQ(read_all(kJob, 2)->at(pack), "pages");
  const StoreStats stats =
      measure(*store_, {{kJob, CheckpointNumber(1)}, {kJob, CheckpointNumber(2)}});
  EXPECT_EQ(stats.checkpoints, 2u);
  EXPECT_EQ(stats.unencrypted, 1u);
  const auto names = *store_->list_shared_files();
  for (const auto& name : names) EXPECT_EQ(store_->check_shared_file(name)->damage, "");
  ASSERT_TRUE(store_->remove(kJob, CheckpointNumber(1)));
  EXPECT_FALSE(on_disk("pages"));
}

TEST_F(EncryptedStoreTest, ARemovedJobCanNotBeReadEvenFromACopyOfItsFiles) {
  ASSERT_TRUE(publish(kJob, 1, {{shared("packs", "pages"), "pages"}, {"a", "a"}}));
  ASSERT_TRUE(publish(kOther, 1, {{"a", "a"}}));
  fakes::TempDir stolen;
  fs::copy(root() / "checkpoints", stolen.path(), fs::copy_options::recursive);
  ASSERT_TRUE(store_->forget_key(kJob));
  EXPECT_FALSE(fs::exists(root() / "keys/7")) << "before anything else goes";
  EXPECT_FALSE(store_->verify(kJob, CheckpointNumber(1)));
  EXPECT_EQ(store_->begin_upload(kJob).error().code(), ErrorCode::NotFound);
  const auto names = *store_->list_shared_files();
  for (const auto& name : names)
    EXPECT_EQ(store_->check_shared_file(name)->damage, "") << "it is about to go";
  ASSERT_TRUE(store_->remove_job(kJob));
  EXPECT_FALSE(fs::exists(root() / "checkpoints/7"));
  EXPECT_EQ(*store_->jobs_with_keys(), std::vector<JobId>{kOther});
  fs::copy(stolen.path() / "7", root() / "checkpoints/7", fs::copy_options::recursive);
  reopen(true);
  EXPECT_NE(damage(kJob, 1).find("the key of job 7 is missing"), std::string::npos);
  EXPECT_TRUE(store_->verify(kOther, CheckpointNumber(1)));
}

TEST_F(EncryptedStoreTest, ALostKeyCostsItsCheckpointsAndNotTheNextOne) {
  const std::string pack = shared("packs", "pages");
  ASSERT_TRUE(publish(kJob, 1, {{pack, "pages"}}));
  fs::resize_file(root() / "keys/7", 30);
  reopen(true);
  EXPECT_NE(damage(kJob, 1).find("keys/7"), std::string::npos) << damage(kJob, 1);
  EXPECT_FALSE(has(kJob, "pages"));
  ASSERT_TRUE(publish(kJob, 2, {{pack, "pages"}}));
  EXPECT_EQ(read_all(kJob, 2)->at(pack), "pages");
  EXPECT_NE(damage(kJob, 1), "");
}

TEST_F(EncryptedStoreTest, ASharedFileThatIsNotWhatItSaysIsNotLinked) {
  const std::string pack = shared("packs", "pages");
  ASSERT_TRUE(publish(kJob, 1, {{pack, "pages"}}));
  const fs::path link = place(kJob, 1, pack);
  fs::resize_file(link, fs::file_size(link) - 1);
  EXPECT_EQ(publish(kJob, 2, {{pack, "pages"}}, {pack}).error().code(), ErrorCode::NotFound);
  EXPECT_FALSE(has(kJob, "pages"));
  EXPECT_NE(damage(kJob, 1).find("has size"), std::string::npos);
}

}  // namespace
}  // namespace baton::store
