// Publishing, reading back, damage, hostile uploads, removal.
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/wait.h>

#include <algorithm>
#include <fstream>

#include "fakes/temp_dir.h"
#include "store/hash.h"
#include "store/inventory.h"
#include "store/reader.h"
#include "store/upload.h"
#include "sys/file.h"

namespace baton::store {
namespace {

const JobId kJob(7);
using Files = std::map<std::string, std::string>;
// Whether there are faults at all is read once, at the first fault point.
[[maybe_unused]] const int kFaultsEnabled = ::setenv("BATON_FAULTS", "none=error", 1);

Status add_file(Upload& upload, const std::string& path, const std::string& data) {
  BATON_CHECK(upload.begin_file(path, data.size(), 0644));
  if (!data.empty()) BATON_CHECK(upload.write(data));
  return upload.end_file(hash_bytes(data));
}

Status publish(CheckpointStore& store, std::uint64_t number, const Files& files) {
  BATON_TRY(auto upload, store.begin_upload(kJob));
  for (const auto& [path, data] : files) BATON_CHECK(add_file(*upload, path, data));
  return upload->publish(CheckpointNumber(number), R"({"node":"node-1"})");
}

Result<Files> read_all(CheckpointStore& store, std::uint64_t number) {
  BATON_TRY(auto reader, store.open_reader(kJob, CheckpointNumber(number)));
  Files files;
  for (const auto& file : reader->manifest().files)
    BATON_CHECK(reader->read(file, 4, [&](std::string_view data, bool) {
      files[file.path] += data;
      return Status();
    }));
  return files;
}

class StoreTest : public testing::Test {
 protected:
  void SetUp() override { reopen(); }
  void reopen(StoreOptions options = {}) {
    store_.reset();
    auto store = CheckpointStore::open(directory_.path(), std::move(options));
    ASSERT_TRUE(store) << store.error().message();
    store_ = std::move(*store);
  }
  fs::path path(std::uint64_t number, const std::string& file) {
    return store_->directory(kJob, CheckpointNumber(number)) / file;
  }
  std::size_t incoming() {
    return static_cast<std::size_t>(
        std::distance(fs::directory_iterator(directory_.path() / "checkpoints" / ".incoming"),
                      fs::directory_iterator()));
  }
  std::string damage(std::uint64_t number) {
    auto status = store_->verify(kJob, CheckpointNumber(number));
    EXPECT_FALSE(status);
    if (status) return "";
    EXPECT_EQ(status.error().code(), ErrorCode::Damaged);
    return status.error().message();
  }

  fakes::TempDir directory_;
  std::unique_ptr<CheckpointStore> store_;
};

TEST_F(StoreTest, WhatIsPublishedComesBack) {
  Files files = {{"images/core-2.img", "0123456789"}, {"checkpoint.json", "{}"}, {"empty", ""}};
  auto published = publish(*store_, 3, files);
  ASSERT_TRUE(published) << published.error().message();
  reopen();
  EXPECT_EQ(*read_all(*store_, 3), files);
  EXPECT_TRUE(store_->verify(kJob, CheckpointNumber(3)));
  auto reader = store_->open_reader(kJob, CheckpointNumber(3));
  EXPECT_EQ((*reader)->manifest().info_json, R"({"node":"node-1"})");
  EXPECT_EQ(*store_->list(),
            (std::vector<std::pair<JobId, CheckpointNumber>>{{kJob, CheckpointNumber(3)}}));
}

TEST_F(StoreTest, EverythingIsOnDiskBeforeTheNameIs) {
  std::mutex mutex;
  std::vector<std::pair<std::string, fs::path>> steps;
  reopen({[&](std::string_view step, const fs::path& path) {
    std::lock_guard lock(mutex);
    steps.emplace_back(step, path);
  }});
  ASSERT_TRUE(publish(*store_, 1, {{"images/a", "a"}, {"images/b", "b"}, {"c", "c"}}));
  auto renamed = std::ranges::find(steps, "rename", &decltype(steps)::value_type::first);
  ASSERT_NE(renamed, steps.end());
  std::set<std::string> files, folders;
  for (auto step = steps.begin(); step != renamed; ++step)
    (step->first == "sync-file" ? files : folders).insert(step->second.filename().string());
  EXPECT_EQ(files, (std::set<std::string>{"a", "b", "c", "manifest.json"}));
  EXPECT_TRUE(folders.contains("images"));
  EXPECT_EQ(folders.size(), 2u);
  ASSERT_NE(renamed + 1, steps.end());
  EXPECT_EQ((renamed + 1)->first, "sync-parent");
}

TEST_F(StoreTest, DamageIsFoundAndNamed) {
  ASSERT_TRUE(publish(*store_, 1, {{"images/a", "aaaa"}}));
  std::ofstream(path(1, "images/a")) << "aaab";
  EXPECT_NE(damage(1).find("checkpoint 1 of job 7: images/a: its checksum is wrong"),
            std::string::npos);
  std::ofstream(path(1, "images/a")) << "aaa";
  EXPECT_NE(damage(1).find("images/a: has size 3, expected 4"), std::string::npos);
  fs::remove(path(1, "images/a"));
  EXPECT_NE(damage(1).find("images/a: missing"), std::string::npos);
  ASSERT_TRUE(publish(*store_, 2, {{"a", "a"}}));
  auto manifest = sys::read_file(path(2, "manifest.json"));
  manifest->replace(manifest->find("\"size\":1"), 8, "\"size\":2");
  std::ofstream(path(2, "manifest.json")) << *manifest;
  EXPECT_NE(damage(2).find("manifest.json"), std::string::npos);
  fs::remove_all(path(2, ""));
  EXPECT_NE(damage(2).find("manifest.json: missing"), std::string::npos);
}

TEST_F(StoreTest, NothingDamagedIsEverHandedOutWhole) {
  ASSERT_TRUE(publish(*store_, 1, {{"a", "0123456789"}}));
  std::ofstream(path(1, "a")) << "012345678X";
  auto reader = store_->open_reader(kJob, CheckpointNumber(1));
  bool saw_last = false;
  auto status =
      (*reader)->read((*reader)->manifest().files[0], 4, [&](std::string_view, bool last) {
        saw_last |= last;
        return Status();
      });
  EXPECT_FALSE(status);
  EXPECT_FALSE(saw_last);
}

TEST_F(StoreTest, HostilePathsAreRefused) {
  for (const std::string& path :
       std::vector<std::string>{"/etc/passwd", "../x", "a/../../x", "a//b", "", ".", "a/./b", "a/",
                                "manifest.json", "a\nb", "a b", "a\\b", "base-files/passwd",
                                "1/2/3/4/5/6/7/8/9", "images/" + std::string(256, 'a')}) {
    auto upload = store_->begin_upload(kJob);
    ASSERT_TRUE(upload);
    auto status = (*upload)->begin_file(path, 1, 0644);
    ASSERT_FALSE(status) << path;
    EXPECT_EQ(status.error().code(), ErrorCode::InvalidArgument) << path;
  }
  EXPECT_EQ(incoming(), 0u);
  EXPECT_FALSE(check_path(std::string_view("a\0b", 3)));
  EXPECT_FALSE(check_path(std::string(600, 'a')));
}

TEST_F(StoreTest, UploadsThatLieAreRefused) {
  auto begin = [&] { return std::move(*store_->begin_upload(kJob)); };
  auto twice = begin();
  ASSERT_TRUE(add_file(*twice, "a", "a"));
  EXPECT_FALSE(twice->begin_file("a", 1, 0));
  for (const auto& [first, second] : {std::pair("a", "a/b"), std::pair("a/b", "a")}) {
    auto both = begin();
    ASSERT_TRUE(add_file(*both, first, "a"));
    const auto status = both->begin_file(second, 1, 0);
    ASSERT_FALSE(status) << second;
    EXPECT_EQ(status.error().code(), ErrorCode::InvalidArgument) << status.error().message();
  }
  auto longer = begin();
  ASSERT_TRUE(longer->begin_file("a", 1, 0));
  EXPECT_FALSE(longer->write("ab"));
  auto shorter = begin();
  ASSERT_TRUE(shorter->begin_file("a", 2, 0));
  ASSERT_TRUE(shorter->write("a"));
  EXPECT_EQ(shorter->end_file(hash_bytes("a")).error().code(), ErrorCode::Damaged);
  auto broken = begin();
  ASSERT_TRUE(broken->begin_file("a", 1, 0));
  ASSERT_TRUE(broken->write("b"));
  EXPECT_EQ(broken->end_file(hash_bytes("a")).error().code(), ErrorCode::Damaged);
  auto unfinished = begin();
  ASSERT_TRUE(unfinished->begin_file("a", 1, 0));
  EXPECT_FALSE(unfinished->publish(CheckpointNumber(1), "{}"));
  EXPECT_FALSE(begin()->publish(CheckpointNumber(1), "{}"));
  auto under_file = begin();
  ASSERT_TRUE(add_file(*under_file, "a", "a"));
  EXPECT_FALSE(under_file->begin_file("a/b", 1, 0));
  for (auto* upload : {&twice, &longer, &shorter, &broken, &unfinished, &under_file})
    upload->reset();
  EXPECT_EQ(incoming(), 0u);
  EXPECT_TRUE(store_->list()->empty());
}

TEST_F(StoreTest, APublishedNumberIsNeverOverwritten) {
  ASSERT_TRUE(publish(*store_, 1, {{"a", "first"}}));
  EXPECT_FALSE(publish(*store_, 1, {{"a", "second"}}));
  EXPECT_EQ(read_all(*store_, 1)->at("a"), "first");
  EXPECT_EQ(incoming(), 0u);
}

TEST_F(StoreTest, HalfDoneUploadsGoAtTheNextStart) {
  fs::create_directories(directory_.path() / "checkpoints/.incoming/9/images");
  std::ofstream(directory_.path() / "checkpoints/.incoming/9/images/a") << "half";
  std::ofstream(directory_.path() / "shared" / std::string(32, 'a')) << "nobody's";
  reopen();
  EXPECT_EQ(incoming(), 0u);
  EXPECT_TRUE(fs::is_empty(directory_.path() / "shared"));
}

TEST_F(StoreTest, WhatCameBeforeItWasBrokenOffNeedNotComeAgain) {
  auto packed = [](char c) { return std::string(10'000, c); };
  auto path_of = [](const std::string& data) { return "packs/" + hash_bytes(data); };
  const std::string whole = packed('a'), cut = packed('b'), never = packed('c');
  auto missing = [&] {
    return store_->missing_shared_files(kJob, {hash_bytes(whole), hash_bytes(cut)});
  };
  auto break_off = [&](bool keep) {
    auto upload = store_->begin_upload(kJob);
    ASSERT_TRUE(upload);
    ASSERT_TRUE(add_file(**upload, path_of(whole), whole));
    ASSERT_TRUE(add_file(**upload, path_of(never), never));
    ASSERT_TRUE((*upload)->begin_file(path_of(cut), cut.size(), 0600));
    ASSERT_TRUE((*upload)->write(cut.substr(0, 500)));
    if (keep) (*upload)->keep_what_came();
  };
  break_off(false);
  EXPECT_EQ(missing().size(), 2u) << "something was wrong with it";
  break_off(true);
  EXPECT_EQ(missing(), std::vector{hash_bytes(cut)});
  EXPECT_EQ(incoming(), 0u);
  auto upload = store_->begin_upload(kJob);
  ASSERT_TRUE(upload);
  ASSERT_TRUE((*upload)->link_shared_file(path_of(whole), whole.size(), 0600));
  ASSERT_TRUE(add_file(**upload, path_of(cut), cut));
  ASSERT_TRUE((*upload)->publish(CheckpointNumber(1), "{}"));
  EXPECT_EQ((*upload)->new_bytes(), cut.size());
  EXPECT_TRUE(store_->verify(kJob, CheckpointNumber(1)));
  EXPECT_EQ(store_->missing_shared_files(kJob, {hash_bytes(never)}).size(), 1u)
      << "it stays although the next checkpoint did not need it";
  break_off(true);
  ASSERT_TRUE(store_->remove_job(kJob));
  EXPECT_EQ(missing().size(), 2u);
}

TEST_F(StoreTest, BaseFilesAreKeptOnceAndGoWithTheLastThatNeedsThem) {
  std::string content = "libc";
  std::string hash = hash_bytes(content);
  std::string name = "base-files/" + hash;
  EXPECT_EQ(store_->missing_shared_files(kJob, {hash}).size(), 1u);
  ASSERT_TRUE(publish(*store_, 1, {{name, content}, {"a", "1"}}));
  EXPECT_TRUE(store_->missing_shared_files(kJob, {hash}).empty());
  {
    auto upload = store_->begin_upload(JobId(8));
    ASSERT_TRUE((*upload)->link_shared_file(name, content.size(), 0755));
    ASSERT_TRUE((*upload)->publish(CheckpointNumber(1), "{}"));
  }
  ASSERT_TRUE(store_->remove(kJob, CheckpointNumber(1)));
  EXPECT_TRUE(store_->verify(JobId(8), CheckpointNumber(1)));
  EXPECT_TRUE(store_->missing_shared_files(kJob, {hash}).empty());
  ASSERT_TRUE(store_->remove_job(JobId(8)));
  EXPECT_EQ(store_->missing_shared_files(kJob, {hash}).size(), 1u);
  auto upload = store_->begin_upload(kJob);
  EXPECT_EQ((*upload)->link_shared_file(name, content.size(), 0755).error().code(),
            ErrorCode::NotFound);
}

TEST_F(StoreTest, ABaseFileThatWentBadIsSentAgain) {
  std::string content = "libc";
  std::string name = "base-files/" + hash_bytes(content);
  ASSERT_TRUE(publish(*store_, 1, {{name, content}}));
  std::ofstream(path(1, name)) << "evil";
  EXPECT_NE(damage(1).find(name), std::string::npos);
  EXPECT_EQ(store_->missing_shared_files(kJob, {hash_bytes(content)}).size(), 1u);
}

TEST_F(StoreTest, RemovalWaitsForAReader) {
  ASSERT_TRUE(publish(*store_, 1, {{"a", "a"}}));
  {
    auto reader = store_->open_reader(kJob, CheckpointNumber(1));
    ASSERT_TRUE(reader);
    ASSERT_TRUE(store_->remove(kJob, CheckpointNumber(1)));
    EXPECT_TRUE((*reader)->read((*reader)->manifest().files[0], 4,
                                [](std::string_view, bool) { return Status(); }));
    EXPECT_FALSE(store_->open_reader(kJob, CheckpointNumber(1)));
  }
  EXPECT_TRUE(store_->list()->empty());
  EXPECT_FALSE(fs::exists(path(1, "")));
}

TEST_F(StoreTest, ACheckNamesEverythingThatIsWrong) {
  const std::string pack = "packs/" + hash_bytes("pages");
  ASSERT_TRUE(publish(*store_, 1, {{pack, "pages"}, {"images/a", "aaaa"}, {"images/b", "b"}}));
  auto check = store_->check(kJob, CheckpointNumber(1), {});
  ASSERT_TRUE(check) << check.error().message();
  EXPECT_EQ(check->files, 3u);
  EXPECT_EQ(check->bytes, 10u);
  EXPECT_TRUE(check->damage.empty());
  std::ofstream(path(1, "images/a")) << "aaab";
  fs::remove(path(1, pack));
  check = store_->check(kJob, CheckpointNumber(1), {});
  EXPECT_EQ(check->damage,
            (std::vector<std::string>{"images/a: its checksum is wrong", pack + ": missing"}));
  std::uint64_t read = 0;
  CheckpointStore::CheckOptions options;
  options.skip = [&](const StoredFile& file, const fs::path& link) {
    EXPECT_EQ(link, path(1, file.path));
    return file.path != "images/b";
  };
  options.pace = [&](std::uint64_t bytes) {
    read += bytes;
    return Status();
  };
  EXPECT_TRUE(store_->check(kJob, CheckpointNumber(1), options)->damage.empty());
  EXPECT_EQ(read, 1u);
  options.pace = [](std::uint64_t) { return Status(fail(ErrorCode::Cancelled, "enough")); };
  EXPECT_EQ(store_->check(kJob, CheckpointNumber(1), options).error().code(), ErrorCode::Cancelled);
  fs::remove_all(path(1, ""));
  EXPECT_EQ(store_->check(kJob, CheckpointNumber(1), {})->damage,
            (std::vector<std::string>{"manifest.json: missing"}));
}

TEST_F(StoreTest, OrphansAreFoundAndFigureInNothing) {
  const std::string pack = "packs/" + hash_bytes("pages");
  ASSERT_TRUE(publish(*store_, 1, {{pack, "pages"}, {"tree-0.tar", "tree"}}));
  {
    auto upload = store_->begin_upload(kJob);
    ASSERT_TRUE((*upload)->link_shared_file(pack, 5, 0644));
    ASSERT_TRUE((*upload)->publish(CheckpointNumber(2), "{}"));
  }
  const std::set<CheckpointKey> recorded = {{kJob, CheckpointNumber(1)},
                                            {kJob, CheckpointNumber(2)}};
  EXPECT_TRUE(find_orphans(*store_, recorded)->empty());
  const StoreStats stats = measure(*store_, recorded);
  EXPECT_EQ(stats.checkpoints, 2u);
  EXPECT_EQ(stats.kinds.at("memory pages").files, 1u);
  EXPECT_EQ(stats.kinds.at("memory pages").stored_bytes, 5u);
  EXPECT_EQ(stats.kinds.at("memory pages").logical_bytes, 10u);
  EXPECT_EQ(stats.kinds.at("private files").stored_bytes, 4u);

  ASSERT_TRUE(publish(*store_, 3, {{"a", "nobody's"}}));
  fs::create_directories(directory_.path() / "checkpoints/notes");
  std::ofstream(directory_.path() / "checkpoints/notes/a") << "someone's";
  std::ofstream(directory_.path() / "shared" / std::string(32, 'a')) << "alone";
  std::map<std::string, std::uint64_t> found;
  const auto orphans = find_orphans(*store_, recorded);
  ASSERT_TRUE(orphans);
  for (const Orphan& orphan : *orphans) {
    found[orphan.path] = orphan.bytes;
    EXPECT_EQ(orphan.kind == Orphan::Kind::Foreign, orphan.path == "checkpoints/notes");
  }
  EXPECT_EQ(found.size(), 3u);
  EXPECT_TRUE(found.contains("checkpoints/7/3"));
  EXPECT_EQ(found.at("checkpoints/notes"), 9u);
  EXPECT_EQ(found.at("shared/" + std::string(32, 'a')), 5u);
}

TEST_F(StoreTest, RemovalSaysWhatItGaveBack) {
  const std::string pack = "packs/" + hash_bytes("pages");
  ASSERT_TRUE(publish(*store_, 1, {{pack, "pages"}, {"a", "1234"}}));
  const std::uint64_t manifest = fs::file_size(path(1, "manifest.json"));
  ASSERT_TRUE(store_->remove(kJob, CheckpointNumber(1)));
  EXPECT_EQ(store_->freed_bytes(), 9 + manifest);
}

TEST_F(StoreTest, WhatIsNotToBeSharedIsNot) {
  const std::string pack = "packs/" + hash_bytes("pages");
  auto upload = store_->begin_upload(kJob, CheckpointStore::Sharing::None);
  ASSERT_TRUE(add_file(**upload, pack, "pages"));
  ASSERT_TRUE((*upload)->publish(CheckpointNumber(1), "{}"));
  EXPECT_EQ(store_->missing_shared_files(kJob, {hash_bytes("pages")}).size(), 1u);
  EXPECT_TRUE(store_->verify(kJob, CheckpointNumber(1)));
}

// In a child with a mount namespace of its own, on a disk of one megabyte.
TEST_F(StoreTest, AFullDiskIsACleanErrorAndTheLastCheckpointStands) {
  if (::geteuid() != 0) GTEST_SKIP() << "mounting a small disk needs root";
  const std::string root = directory_.path();
  pid_t child = ::fork();
  if (child == 0) {
    auto expect = [](bool right, int code) {
      if (!right) ::_exit(code);
    };
    expect(::unshare(CLONE_NEWNS) == 0, 1);
    expect(::mount("", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0, 2);
    expect(::mount("tmpfs", root.c_str(), "tmpfs", 0, "size=1m") == 0, 3);
    auto store = CheckpointStore::open(root);
    expect(store.has_value(), 4);
    expect(publish(**store, 1, {{"a", std::string(200'000, 'x')}}).has_value(), 5);
    auto full = publish(**store, 2, {{"a", "small"}, {"b", std::string(2'000'000, 'x')}});
    expect(!full && full.error().code() == ErrorCode::NoSpace, 6);
    expect(full.error().message().find("store b") != std::string::npos, 7);
    expect((*store)->verify(kJob, CheckpointNumber(1)).has_value(), 8);
    expect((*store)->list()->size() == 1, 9);
    expect(fs::is_empty(fs::path(root) / "checkpoints/.incoming"), 10);
    expect(publish(**store, 2, {{"a", std::string(200'000, 'x')}}).has_value(), 11);
    ::_exit(0);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

// Whatever the instant of a crash, a checkpoint is there whole or not at all.
TEST_F(StoreTest, ACrashLeavesAllOrNothing) {
  for (std::string point : {"store.write", "store.before_rename", "store.after_rename"}) {
    pid_t child = ::fork();
    if (child == 0) {
      ::setenv("BATON_FAULTS", (point + "=crash").c_str(), 1);
      (void)publish(*store_, 5, {{"a", "a"}});
      ::_exit(1);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status)) << point << " was not reached";
    reopen();
    bool there = !store_->list()->empty();
    EXPECT_EQ(there, point == "store.after_rename");
    if (there) {
      EXPECT_TRUE(store_->verify(kJob, CheckpointNumber(5)));
    }
    EXPECT_EQ(incoming(), 0u);
    ASSERT_TRUE(store_->remove(kJob, CheckpointNumber(5)));
  }
}

TEST(Manifest, RoundTripIsByteIdentical) {
  Manifest manifest{kJob,
                    CheckpointNumber(3),
                    R"({"b":1,"a":"\u00e9"})",
                    {{"images/a", 4, 0600, hash_bytes("aaaa")}}};
  std::string text = encode_manifest(manifest);
  auto decoded = decode_manifest(text);
  ASSERT_TRUE(decoded) << decoded.error().message();
  EXPECT_EQ(decoded->files, manifest.files);
  EXPECT_EQ(encode_manifest(*decoded), text);
  for (std::size_t at = 0; at < text.size(); ++at) {
    std::string bad = text;
    bad[at] ^= 1;
    auto outcome = decode_manifest(bad);
    // A change that leaves the same values (white space at the end) is none.
    if (outcome) {
      EXPECT_EQ(encode_manifest(*outcome), text) << "byte " << at;
    }
  }
}

TEST(Manifest, DeepNestingDoesNotEndTheStack) {
  const std::string text = "{\"body\":{\"info\":" + std::string(1 << 20, '[') +
                           std::string(1 << 20, ']') + "},\"body_xxh3_128\":\"\"}";
  auto manifest = decode_manifest(text);
  ASSERT_FALSE(manifest);
  EXPECT_NE(manifest.error().message().find("nests too deeply"), std::string::npos);
}

TEST(Hash, IsTheCanonicalForm) {
  // xxhsum -H2 of the empty input.
  EXPECT_EQ(hash_bytes(""), "99aa06d3014798d86001c324468d497f");
  Hasher hasher;
  hasher.update("ab");
  hasher.update("c");
  EXPECT_EQ(hasher.hex(), hash_bytes("abc"));
  EXPECT_TRUE(is_hash(hasher.hex()));
  EXPECT_FALSE(is_hash("ABC"));
}

}  // namespace
}  // namespace baton::store
