// Keys: who gets them, what a wrong one does, how they change, and that a forgotten one is gone.
#include <gtest/gtest.h>

#include <fstream>

#include "fakes/temp_dir.h"
#include "store/key_file.h"
#include "store/key_ring.h"
#include "sys/file.h"

namespace baton::store {
namespace {

namespace fs = std::filesystem;
const JobId kJob(7);

Secret secret(char fill) {
  Secret secret;
  std::fill_n(secret.data(), Secret::kBytes, static_cast<unsigned char>(fill));
  return secret;
}
std::string text(const Secret& secret) {
  return {reinterpret_cast<const char*>(secret.data()), Secret::kBytes};
}

class KeyRingTest : public testing::Test {
 protected:
  using Ring = Result<std::unique_ptr<KeyRing>>;
  Ring open(std::optional<char> current, std::optional<char> old = {},
            KeyRing::Observer observer = {}) {
    std::optional<ClusterKeys> keys;
    if (current) keys = ClusterKeys{secret(*current), {}};
    if (current && old) keys->old = secret(*old);
    return KeyRing::open(folder(), keys, std::move(observer));
  }
  fs::path folder() const { return directory_.path() / "keys"; }
  fs::path file(const char* name = "7") const { return folder() / name; }
  std::string bytes(const fs::path& path) { return *sys::read_file(path); }
  void put(const fs::path& path, const std::string& content) {
    std::ofstream(path, std::ios::binary) << content;
  }

  fakes::TempDir directory_;
};

TEST_F(KeyRingTest, AJobKeepsItsKeyAndNobodySeesItOnDisk) {
  auto ring = open('a');
  ASSERT_TRUE(ring) << ring.error().message();
  EXPECT_EQ((*ring)->find(kJob).error().code(), ErrorCode::NotFound);
  const std::string key = text((*(*ring)->find_or_make(kJob))->data);
  EXPECT_EQ(text((*(*ring)->find_or_make(kJob))->data), key);
  EXPECT_NE(text((*(*ring)->find_or_make(JobId(8)))->data), key);
  EXPECT_EQ(bytes(file()).find(key.substr(0, 8)), std::string::npos);
  EXPECT_EQ(fs::status(file()).permissions(), fs::perms(0600));
  ring = open('a');
  EXPECT_EQ(text((*(*ring)->find(kJob))->data), key);
  EXPECT_EQ((*ring)->list()->size(), 2u);
}

TEST_F(KeyRingTest, WithoutTheRightKeyNothingOpens) {
  EXPECT_EQ(*open({}), nullptr) << "a store that is not encrypted needs none";
  ASSERT_TRUE((*open('a'))->find_or_make(kJob));
  auto none = open({});
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code(), ErrorCode::FailedPrecondition);
  EXPECT_NE(none.error().message().find("--store-key-file"), std::string::npos);
  auto wrong = open('b');
  ASSERT_FALSE(wrong);
  EXPECT_EQ(wrong.error().code(), ErrorCode::FailedPrecondition);
  EXPECT_NE(wrong.error().message().find("is not that of the encrypted store"), std::string::npos);
  fs::remove(file("cluster"));
  EXPECT_FALSE(open('b')) << "the jobs' keys say it as well";
  EXPECT_FALSE(open({}));
  EXPECT_TRUE((*open('a'))->find(kJob));
}

// Made by other software from docs/store-format.md.
TEST_F(KeyRingTest, TheFormatIsWhatItIsDescribedToBe) {
  const std::string_view hex =
      "4241544e4a4b455901000000000000000700000000000000892b32570a30234435f8f64a39c8ed7b0001020304"
      "05060708090a0bf73e4dcb3f3e086e96f63bcf20b50b643cd1a7cc562eaeedc9fe7e3c95e9d9146541c0b42429"
      "0280479b7b828dc2b07400000000";
  std::string stored;
  for (std::size_t at = 0; at < hex.size(); at += 2)
    stored += static_cast<char>(std::stoi(std::string(hex.substr(at, 2)), nullptr, 16));
  const auto key = key_file::unwrap(stored, kJob, secret('c'));
  ASSERT_TRUE(key) << key.error().message();
  for (std::size_t i = 0; i < Secret::kBytes; ++i) EXPECT_EQ(key->data.data()[i], i);
  EXPECT_EQ(keyed_hash(key->names, "0123456789abcdef0123456789abcdef"),
            "ef529d14a0a4900c10ac7bae55814154");
}

TEST_F(KeyRingTest, EveryChangedByteOfAJobsKeyIsFound) {
  ASSERT_TRUE((*open('a'))->find_or_make(kJob));
  const std::string stored = bytes(file());
  for (std::size_t at = 0; at < stored.size(); ++at) {
    std::string changed = stored;
    changed[at] = static_cast<char>(changed[at] ^ 4);
    put(file(), changed);
    auto ring = open('a');
    ASSERT_TRUE(ring) << "one job's key is nothing against the others': " << at;
    ASSERT_FALSE((*ring)->find(kJob)) << at;
  }
  put(file(), stored.substr(0, 50));
  EXPECT_EQ((*open('a'))->find(kJob).error().code(), ErrorCode::Damaged);
}

TEST_F(KeyRingTest, EveryChangedByteOfTheClustersFileIsFound) {
  ASSERT_TRUE(open('a'));
  const std::string stored = bytes(file("cluster"));
  for (std::size_t at = 0; at < stored.size(); ++at) {
    std::string changed = stored;
    changed[at] = static_cast<char>(changed[at] ^ 4);
    put(file("cluster"), changed);
    auto ring = open('a');
    ASSERT_FALSE(ring) << at;
    ASSERT_EQ(ring.error().code(), ErrorCode::Damaged) << at;
  }
}

TEST_F(KeyRingTest, AKeyOfAnotherJobIsNone) {
  {
    auto ring = open('a');
    ASSERT_TRUE((*ring)->find_or_make(kJob));
    ASSERT_TRUE((*ring)->find_or_make(JobId(8)));
  }
  fs::copy_file(file("8"), file("7"), fs::copy_options::overwrite_existing);
  EXPECT_NE((*open('a'))->find(kJob).error().message().find("the key of job 8"), std::string::npos);
  std::string renamed = bytes(file("8"));
  renamed[16] = 7;
  put(file(), renamed);
  EXPECT_EQ((*open('a'))->find(kJob).error().code(), ErrorCode::Damaged);
}

TEST_F(KeyRingTest, ADamagedKeyIsSetAsideAndAnotherMade) {
  ASSERT_TRUE((*open('a'))->find_or_make(kJob));
  const std::string damaged = bytes(file()).substr(0, 60);
  put(file(), damaged);
  ASSERT_TRUE((*open('a'))->find_or_make(kJob));
  EXPECT_EQ(bytes(file("7.damaged")), damaged);
  EXPECT_TRUE((*open('a'))->find(kJob));
  ASSERT_TRUE((*open('a'))->forget(kJob, KeyRing::Forget::ForGood));
  EXPECT_FALSE(fs::exists(file("7.damaged")));
}

TEST_F(KeyRingTest, AForgottenKeyIsGoneFromTheDiskAndFromMemory) {
  auto ring = open('a');
  const std::string key = text((*(*ring)->find_or_make(kJob))->data);
  // What a look at the disk's blocks would find.
  fs::create_hard_link(file(), directory_.path() / "blocks");
  ASSERT_TRUE((*ring)->forget(kJob, KeyRing::Forget::ForGood));
  EXPECT_FALSE(fs::exists(file()));
  EXPECT_FALSE(key_file::unwrap(bytes(directory_.path() / "blocks"), kJob, secret('a')));
  EXPECT_FALSE(key_file::wrapped_with(bytes(directory_.path() / "blocks")));
  EXPECT_EQ((*ring)->find(kJob).error().code(), ErrorCode::NotFound);
  EXPECT_EQ((*ring)->find_or_make(kJob).error().code(), ErrorCode::NotFound);
  EXPECT_TRUE((*ring)->forget(kJob, KeyRing::Forget::ForGood));
  ring = open('a');
  EXPECT_EQ((*ring)->find(kJob).error().code(), ErrorCode::NotFound);
  // An id that was never given to anybody for good may be.
  ASSERT_TRUE((*ring)->forget(kJob, KeyRing::Forget::SoFar));
  EXPECT_NE(text((*(*ring)->find_or_make(kJob))->data), key);
}

TEST_F(KeyRingTest, TheClustersKeyChangesAndJobsKeepTheirs) {
  std::map<std::uint64_t, std::string> keys;
  {
    auto ring = open('a');
    for (std::uint64_t job : {1, 2, 3})
      keys[job] = text((*(*ring)->find_or_make(JobId(job)))->data);
  }
  fs::create_hard_link(file("2"), directory_.path() / "blocks");
  EXPECT_FALSE(open('b', 'c')) << "neither is the right one";
  ASSERT_TRUE(open('b', 'a'));
  EXPECT_FALSE(key_file::unwrap(bytes(directory_.path() / "blocks"), JobId(2), secret('a')))
      << "what the old key unwraps is overwritten";
  EXPECT_FALSE(open('a'));
  for (std::optional<char> old : {std::optional<char>(), std::optional<char>('a')}) {
    auto again = open('b', old);
    ASSERT_TRUE(again) << again.error().message();
    for (const auto& [job, key] : keys) EXPECT_EQ(text((*(*again)->find(JobId(job)))->data), key);
  }
}

TEST_F(KeyRingTest, AChangeThatWasBrokenOffAnywhereGoesOnAndLosesNothing) {
  std::map<std::uint64_t, std::string> keys;
  {
    auto ring = open('a');
    for (std::uint64_t job : {1, 2, 3})
      keys[job] = text((*(*ring)->find_or_make(JobId(job)))->data);
  }
  int cuts = 0, unfinished = 0;
  fakes::TempDir after("/dev/shm");
  auto cut = [&](std::string_view, const fs::path&) {
    for (bool back : {false, true}) {
      const fs::path copy = after.path() / fmt::to_string(++cuts) / "keys";
      fs::create_directories(copy.parent_path());
      fs::copy(folder(), copy);
      for (char alone : {'a', 'b'}) {
        // Either finds all of them, or says that it needs the other: and makes no job a new key.
        auto ring = KeyRing::open(copy, ClusterKeys{secret(alone), {}}, {});
        if (!ring) {
          ++unfinished;
          EXPECT_EQ(ring.error().code(), ErrorCode::FailedPrecondition);
          continue;
        }
        for (const auto& [job, key] : keys)
          EXPECT_EQ(text((*(*ring)->find_or_make(JobId(job)))->data), key);
      }
      const ClusterKeys both =
          back ? ClusterKeys{secret('a'), secret('b')} : ClusterKeys{secret('b'), secret('a')};
      auto ring = KeyRing::open(copy, both, {});
      ASSERT_TRUE(ring) << ring.error().message();
      for (const auto& [job, key] : keys) EXPECT_EQ(text((*(*ring)->find(JobId(job)))->data), key);
      EXPECT_TRUE(KeyRing::open(copy, ClusterKeys{both.current, {}}, {}));
    }
  };
  ASSERT_TRUE(open('b', 'a', cut));
  EXPECT_EQ(cuts, 2 * (2 + 3 * 3)) << "the cluster's file twice, three steps for each key";
  EXPECT_GE(unfinished, 2 * 2 * 10);
}

}  // namespace
}  // namespace baton::store
