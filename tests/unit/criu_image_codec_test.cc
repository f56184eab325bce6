#include <gtest/gtest.h>
#include <unistd.h>

#include "criu/image_codec.h"
#include "sys/file.h"

namespace baton::criu {
namespace {

class ImageCodec : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = "/var/tmp/baton-codec-XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    directory_ = pattern;
    path_ = directory_ / "pagemap-1.img";
  }
  void TearDown() override { (void)sys::remove_tree(directory_); }
  bool readable(std::string_view content) {
    EXPECT_TRUE(sys::write_file_durable(path_, content));
    auto image = read_pagemap(path_);
    if (!image) {
      EXPECT_EQ(image.error().code(), ErrorCode::Damaged) << image.error().message();
    }
    return image.has_value();
  }
  std::filesystem::path directory_, path_;
};

// Bytes as CRIU 4.2.1 writes them: magic, head {pages_id 1}, one entry of three pages.
std::string genuine() {
  return std::string(
      "\x19\x43\x56\x54\x25\x40\x08\x56"
      "\x02\x00\x00\x00\x08\x01"
      "\x0b\x00\x00\x00\x08\x80\x80\x90\x02\x10\x00\x20\x04\x28\x03",
      8 + 6 + 15);
}

TEST_F(ImageCodec, ReadsWhatCriuWrites) {
  ASSERT_TRUE(sys::write_file_durable(path_, genuine()));
  auto image = read_pagemap(path_);
  ASSERT_TRUE(image) << image.error().message();
  EXPECT_EQ(image->pages_id, 1u);
  EXPECT_EQ(image->runs, (std::vector<PagemapRun>{{0x440000, 3, pagemap_present}}));
}

TEST_F(ImageCodec, RoundTrip) {
  PagemapImage image{9,
                     {{0x1000, 1, pagemap_present},
                      {0x3000, 5'000'000'000, pagemap_present | pagemap_lazy},
                      {0x7ffffffff000 - 0x1000, 1, pagemap_in_parent}}};
  ASSERT_TRUE(write_pagemap(path_, image));
  auto again = read_pagemap(path_);
  ASSERT_TRUE(again) << again.error().message();
  EXPECT_EQ(again->pages_id, 9u);
  EXPECT_EQ(again->runs, image.runs);
}

TEST_F(ImageCodec, RefusesWhatIsNotWhole) {
  std::string good = genuine();
  EXPECT_TRUE(readable(good));
  // Cut between two messages it is a shorter image, which nothing in it tells from a whole one.
  for (std::size_t size = 0; size < good.size(); ++size)
    EXPECT_EQ(readable(good.substr(0, size)), size == 14) << size;
  std::string other = good;
  other[4] = 'x';
  EXPECT_FALSE(readable(other)) << "another kind of image";
  EXPECT_FALSE(readable(good + good.substr(14))) << "the same pages again";
  std::string unaligned = good;
  unaligned[19] = '\x81';
  EXPECT_FALSE(readable(unaligned));
}

}  // namespace
}  // namespace baton::criu
