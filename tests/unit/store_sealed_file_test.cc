// Encrypted files: any range comes back, and nothing that was tampered with does.
#include <fcntl.h>
#include <gtest/gtest.h>

#include <fstream>
#include <random>

#include "fakes/temp_dir.h"
#include "store/sealed_file.h"
#include "sys/file.h"

namespace baton::store {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kStored = kSegmentBytes + Gcm::kTagBytes;

std::string noise(std::size_t size, unsigned seed) {
  std::mt19937 random(seed);
  std::string data(size, '\0');
  for (char& byte : data) byte = static_cast<char>(random());
  return data;
}

class SealedFileTest : public testing::Test {
 protected:
  static std::shared_ptr<const JobKey> key(std::uint64_t job, char fill) {
    JobKey key;
    key.job = JobId(job);
    std::fill_n(key.data.data(), Secret::kBytes, static_cast<unsigned char>(fill));
    return std::make_shared<const JobKey>(key);
  }
  // Returns its id.
  std::string write(const std::string& name, const std::string& content,
                    std::size_t piece = 1 << 20) {
    SealedWriter writer(*key_, content.size());
    auto file = sys::open_file(path(name), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    for (std::size_t at = 0; at < content.size(); at += piece)
      EXPECT_TRUE(writer.write(file->get(), std::string_view(content).substr(at, piece)));
    EXPECT_TRUE(writer.finish(file->get()));
    return writer.id();
  }
  Result<std::unique_ptr<SealedSource>> open(const std::string& name) {
    return open(name, std::nullopt, key_, kContentPurpose);
  }
  Result<std::unique_ptr<SealedSource>> open(const std::string& name,
                                             const std::optional<std::string>& id,
                                             std::shared_ptr<const JobKey> key,
                                             std::string_view purpose) {
    BATON_TRY(Fd file, sys::open_file(path(name), O_RDONLY));
    return SealedSource::open(std::move(file), name, std::move(key), id, purpose);
  }
  Result<std::string> read(const std::string& name) {
    BATON_TRY(const auto source, open(name));
    return sys::read_source(*source, 1 << 30);
  }
  std::string bytes(const std::string& name) { return *sys::read_file(path(name)); }
  void put(const std::string& name, const std::string& stored) {
    std::ofstream(path(name), std::ios::binary) << stored;
  }
  // It has to be found, by whoever reads all of it.
  void expect_damaged(const std::string& name, const std::string& what) {
    const auto content = read(name);
    ASSERT_FALSE(content) << what;
    EXPECT_EQ(content.error().code(), ErrorCode::Damaged) << what;
    EXPECT_NE(content.error().message().find(name), std::string::npos) << what;
  }
  fs::path path(const std::string& name) const { return directory_.path() / name; }

  const std::shared_ptr<const JobKey> key_ = key(7, 'k');
  fakes::TempDir directory_;
};

TEST_F(SealedFileTest, AnyRangeComesBack) {
  std::mt19937 random(1);
  for (std::size_t size : {0u, 1u, 4095u, kSegmentBytes - 1, kSegmentBytes, kSegmentBytes + 1,
                           2 * kSegmentBytes, 5 * kSegmentBytes + 3, 9 * kSegmentBytes}) {
    const std::string content = noise(size, static_cast<unsigned>(size));
    write("file", content, 1 + random() % 100'000);
    EXPECT_EQ(fs::file_size(path("file")), sealed_bytes(size));
    ASSERT_EQ(*read("file"), content) << size;
    auto source = open("file");
    ASSERT_TRUE(source);
    EXPECT_EQ((*source)->size(), size);
    for (int i = 0; i < 200; ++i) {
      const std::size_t offset = random() % (size + 1);
      std::string part(random() % std::min<std::size_t>(size - offset + 1, 200'000), '\0');
      ASSERT_TRUE((*source)->read(part.data(), part.size(), offset));
      ASSERT_EQ(part, content.substr(offset, part.size())) << offset << " of " << size;
    }
    char byte = 0;
    EXPECT_FALSE((*source)->read(&byte, 1, size));
    EXPECT_FALSE((*source)->read(&byte, 2, size - std::min<std::size_t>(size, 1)));
  }
}

TEST_F(SealedFileTest, NothingOfTheContentIsOnDiskAndNoTwoFilesAreAlike) {
  const std::string content(3 * kSegmentBytes, 'm');
  EXPECT_NE(write("one", content), write("two", content));
  EXPECT_EQ(bytes("one").find("mmmm"), std::string::npos);
  EXPECT_NE(bytes("one").substr(48), bytes("two").substr(48));
  // Nor two segments of one.
  EXPECT_NE(bytes("one").substr(48, 1000), bytes("one").substr(48 + kStored, 1000));
}

TEST_F(SealedFileTest, ExactlyWhatWasAnnouncedIsTaken) {
  auto file = sys::open_file(path("file"), O_WRONLY | O_CREAT, 0600);
  SealedWriter shorter(*key_, 10);
  ASSERT_TRUE(shorter.write(file->get(), "12345"));
  EXPECT_FALSE(shorter.finish(file->get()));
  SealedWriter longer(*key_, 10);
  EXPECT_FALSE(longer.write(file->get(), "12345678901"));
  SealedWriter none(*key_, 0);
  EXPECT_FALSE(none.write(file->get(), "1"));
}

TEST_F(SealedFileTest, EveryChangedByteIsFound) {
  const std::string content = noise(2 * kSegmentBytes + 10, 3);
  write("file", content);
  const std::string stored = bytes("file");
  std::vector<std::size_t> places;
  for (std::size_t at = 0; at < stored.size(); ++at) {
    const std::size_t in_segment = at < 48 ? 0 : (at - 48) % kStored;
    const bool is_sample = at % 5'003 == 0;
    if (at < 48 + 20 || in_segment < 2 || in_segment >= kSegmentBytes - 2 || is_sample ||
        at >= stored.size() - 26)
      places.push_back(at);
  }
  for (std::size_t at : places) {
    std::string changed = stored;
    changed[at] = static_cast<char>(changed[at] ^ (1 << at % 8));
    put("file", changed);
    ASSERT_NO_FATAL_FAILURE(expect_damaged("file", fmt::format("byte {}", at)));
    if (at < 48) continue;
    // The segments beside it are read all the same.
    auto source = open("file");
    ASSERT_TRUE(source);
    for (std::size_t number = 0; number < 3; ++number) {
      std::string part(8, '\0');
      const auto status = (*source)->read(part.data(), 8, number * kSegmentBytes + 1);
      ASSERT_EQ(status.has_value(), number != (at - 48) / kStored) << at;
      if (status)
        ASSERT_EQ(part, content.substr(number * kSegmentBytes + 1, 8));
      else
        ASSERT_EQ(part, std::string(8, '\0')) << "what is not authentic is not handed out";
    }
  }
}

TEST_F(SealedFileTest, WhatIsCutOffIsMissed) {
  write("file", noise(3 * kSegmentBytes, 4));
  const std::string stored = bytes("file");
  for (std::size_t segments : {0u, 1u, 2u}) {
    const std::string cut = stored.substr(0, 48 + segments * kStored);
    put("file", cut);
    expect_damaged("file", "cut");
    // With a head that says so.
    std::string lying = cut;
    const std::uint64_t left = segments * kSegmentBytes;
    std::memcpy(lying.data() + 24, &left, sizeof left);
    put("file", lying);
    expect_damaged("file", "cut, with its size made to fit");
  }
  put("file", stored + stored.substr(48, kStored));
  expect_damaged("file", "made longer");
  put("file", "");
  expect_damaged("file", "emptied");
}

TEST_F(SealedFileTest, SegmentsStayWhereTheyBelong) {
  write("file", noise(3 * kSegmentBytes, 5));
  write("other", noise(3 * kSegmentBytes, 5));
  const std::string stored = bytes("file");
  const auto segment = [&](std::size_t number) {
    return stored.substr(48 + number * kStored, kStored);
  };
  const std::string head = stored.substr(0, 48);
  put("file", head + segment(1) + segment(0) + segment(2));
  expect_damaged("file", "two in each other's place");
  put("file", head + segment(0) + segment(0) + segment(2));
  expect_damaged("file", "one twice");
  put("file", head + segment(0) + segment(2) + segment(1));
  expect_damaged("file", "the last one earlier");
  put("file", head + segment(0) + bytes("other").substr(48 + kStored, kStored) + segment(2));
  expect_damaged("file", "one of another file");
  put("file", head + bytes("other").substr(48));
  expect_damaged("file", "all of another file");
}

TEST_F(SealedFileTest, AFileIsReadInItsPlaceAlone) {
  const std::string id = write("file", "content");
  const std::string other = write("other", "content");
  EXPECT_TRUE(open("file", id, key_, kContentPurpose));
  auto swapped = open("other", id, key_, kContentPurpose);
  ASSERT_FALSE(swapped);
  EXPECT_EQ(swapped.error().code(), ErrorCode::Damaged);
  EXPECT_NE(swapped.error().message().find("another file"), std::string::npos);
  EXPECT_EQ(open("file", id, key(8, 'k'), kContentPurpose).error().message(),
            "file: it is a file of job 7");
  char byte = 0;
  auto wrong_key = open("file", id, key(7, 'x'), kContentPurpose);
  ASSERT_TRUE(wrong_key);
  EXPECT_FALSE((*wrong_key)->read(&byte, 1, 0));
  auto wrong_purpose = open("file", id, key_, manifest_purpose(CheckpointNumber(1)));
  ASSERT_TRUE(wrong_purpose);
  EXPECT_FALSE((*wrong_purpose)->read(&byte, 1, 0));
  // The same under another job's number.
  std::string stored = bytes("file");
  stored[16] = 8;
  put("file", stored);
  auto renamed = open("file", id, key(8, 'k'), kContentPurpose);
  ASSERT_TRUE(renamed);
  EXPECT_FALSE((*renamed)->read(&byte, 1, 0));
}

// Made by other software from docs/store-format.md.
TEST_F(SealedFileTest, TheFormatIsWhatItIsDescribedToBe) {
  const std::string_view hex =
      "4241544e43525054010000000000010007000000000000001f00000000000000a0a1a2a3a4a5a6a7a8a9aaabac"
      "adaeafd7ddb3dd8b7c25a1dcd233e64c138ea5aac558c4c91de3e32348a7bbe0fd7825403941abf40892bb5b49"
      "1c50a60271";
  std::string stored;
  for (std::size_t at = 0; at < hex.size(); at += 2)
    stored += static_cast<char>(std::stoi(std::string(hex.substr(at, 2)), nullptr, 16));
  put("file", stored);
  JobKey key;
  key.job = JobId(7);
  for (std::size_t i = 0; i < Secret::kBytes; ++i)
    key.data.data()[i] = static_cast<unsigned char>(i);
  const auto source = open("file", "a0a1a2a3a4a5a6a7a8a9aaabacadaeaf",
                           std::make_shared<const JobKey>(key), kContentPurpose);
  ASSERT_TRUE(source) << source.error().message();
  const auto content = sys::read_source(**source, 100);
  ASSERT_TRUE(content) << content.error().message();
  EXPECT_EQ(*content, "Whoever has the key reads this.");
}

}  // namespace
}  // namespace baton::store
