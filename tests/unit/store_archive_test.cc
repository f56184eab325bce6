// Archives of checkpoints: round trips, and that nothing else is believed.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "store/checkpoint_archive.h"

namespace baton::store {
namespace {

using Kind = ArchiveMember::Kind;
using testing::HasSubstr;

struct Item {
  ArchiveMember member;
  std::string data;
};

std::string archive_of(const std::vector<Item>& items) {
  std::string bytes;
  ArchiveWriter writer([&](std::string_view data) {
    bytes += data;
    return Status();
  });
  for (Item item : items) {
    item.member.size = item.data.size();
    EXPECT_TRUE(writer.begin_member(item.member));
    EXPECT_TRUE(writer.write(item.data));
    EXPECT_TRUE(writer.end_member());
  }
  EXPECT_TRUE(writer.finish());
  return bytes;
}

std::vector<Item> sample() {
  return {{{Kind::Description, ""}, R"({"spec":{}})"},
          {{Kind::File, "images/core-2.img", 0, 0600}, std::string(70'000, 'c')},
          {{Kind::File, "empty", 0, 0644}, ""},
          {{Kind::Output, ""}, "hello\n"}};
}

// Everything in it, or the first error. The bytes come in parts of `part_bytes`.
Result<std::vector<Item>> read_all(const std::string& bytes, std::size_t part_bytes = 1'000) {
  std::size_t at = 0;
  ArchiveReader reader([&]() -> Result<std::string> {
    std::string part = bytes.substr(at, part_bytes);
    at += part.size();
    return part;
  });
  std::vector<Item> items;
  for (;;) {
    BATON_TRY(auto member, reader.next());
    if (!member) return items;
    Item item{*member, ""};
    BATON_TRY(std::string hash, reader.read([&](std::string_view data) {
      item.data += data;
      return Status();
    }));
    EXPECT_EQ(hash, hash_bytes(item.data));
    items.push_back(std::move(item));
  }
}

std::string refusal(const std::string& bytes) {
  auto outcome = read_all(bytes);
  if (outcome) return "it was taken";
  EXPECT_EQ(outcome.error().code(), ErrorCode::Damaged);
  return outcome.error().message();
}

TEST(Archive, WhatGoesInComesOutHoweverItIsCut) {
  const std::string bytes = archive_of(sample());
  for (std::size_t part_bytes : {1u, 7u, 4096u, 1u << 20}) {
    auto items = read_all(bytes, part_bytes);
    ASSERT_TRUE(items) << items.error().message();
    ASSERT_EQ(items->size(), sample().size());
    for (std::size_t at = 0; at < items->size(); ++at) {
      EXPECT_EQ((*items)[at].data, sample()[at].data);
      EXPECT_EQ((*items)[at].member.kind, sample()[at].member.kind);
      EXPECT_EQ((*items)[at].member.path, sample()[at].member.path);
      EXPECT_EQ((*items)[at].member.mode, sample()[at].member.mode);
    }
    EXPECT_EQ(archive_of(*items), bytes);
  }
}

TEST(Archive, EveryCutAndEveryChangedByteIsFound) {
  std::vector<Item> items = sample();
  items[1].data.resize(300);
  const std::string bytes = archive_of(items);
  for (std::size_t size = 0; size < bytes.size(); ++size)
    ASSERT_THAT(refusal(bytes.substr(0, size)), HasSubstr("cut short")) << size;
  for (std::size_t at = 0; at < bytes.size(); ++at) {
    std::string bad = bytes;
    bad[at] ^= 1;
    ASSERT_FALSE(read_all(bad)) << "byte " << at;
  }
  EXPECT_THAT(refusal(bytes + "x"), HasSubstr("something follows its end"));
  EXPECT_THAT(refusal(bytes + bytes), HasSubstr("something follows its end"));
}

TEST(Archive, HostileMembersAreRefused) {
  auto with = [](ArchiveMember member, std::string data = "x") {
    auto items = sample();
    items.push_back({member, data});
    return archive_of(items);
  };
  for (std::string path : {"../x", "/etc/passwd", "a//b", "", "a/..", "manifest.json", "a b"})
    EXPECT_THAT(refusal(with({Kind::File, path})), HasSubstr("file name")) << path;
  EXPECT_THAT(refusal(with({Kind::Output, ""})), HasSubstr("output twice"));
  EXPECT_THAT(refusal(with({Kind::Output, "x"})), testing::Not(HasSubstr("taken")));
  EXPECT_THAT(refusal(with({Kind::Description, ""})), HasSubstr("description"));
  EXPECT_THAT(refusal(with({static_cast<Kind>(9), ""})), HasSubstr("unknown kind"));
  EXPECT_THAT(refusal(archive_of({{{Kind::File, "a"}, "x"}})), HasSubstr("description"));
  EXPECT_THAT(refusal(archive_of({sample()[0]}).substr(16)), HasSubstr("it is none"));
  EXPECT_THAT(refusal(""), HasSubstr("cut short"));
  EXPECT_THAT(refusal(with({Kind::File, std::string(600, 'a')})), HasSubstr("absurd"));
}

TEST(Archive, AnAbsurdSizeTakesNoMemory) {
  std::string bytes;
  ArchiveWriter writer([&](std::string_view data) {
    bytes += data;
    return Status();
  });
  ASSERT_TRUE(writer.begin_member({Kind::Description, "", std::uint64_t{1} << 60, 0}));
  EXPECT_THAT(refusal(bytes), HasSubstr("too large"));
}

TEST(Archive, RandomBytesAreRefused) {
  std::mt19937_64 random(7);
  const std::string good = archive_of(sample());
  for (int round = 0; round < 2'000; ++round) {
    std::string bad = good.substr(0, 600);
    for (int change = 0; change < 4; ++change)
      bad[random() % bad.size()] = static_cast<char>(random());
    ASSERT_FALSE(read_all(bad));
  }
}

}  // namespace
}  // namespace baton::store
