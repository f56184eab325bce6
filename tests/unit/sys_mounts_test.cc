#include <gtest/gtest.h>

#include <algorithm>

#include "sys/mounts.h"

namespace baton::sys {
namespace {

TEST(Mounts, ParsesWhatTheKernelWrites) {
  const auto mounts = parse_mountinfo(
      "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard\n"
      "36 22 0:30 /sub /mnt/a\\040b\\134c ro,nosuid - tmpfs none rw,size=4k\n"
      "37 22 0:31 / /mnt/super rw shared:2 master:1 - ext4 /dev/b\\011x ro\n"
      "broken line\n"
      "38 22 0:32 / /mnt/cut - ext4\n");
  ASSERT_EQ(mounts.size(), 3u);
  EXPECT_EQ(mounts[0].id, 22u);
  EXPECT_EQ(mounts[0].type, "ext4");
  EXPECT_FALSE(mounts[0].read_only);
  EXPECT_EQ(mounts[1].target, "/mnt/a b\\c");
  EXPECT_EQ(mounts[1].root, "/sub");
  EXPECT_EQ(mounts[1].super_options, "rw,size=4k");
  EXPECT_TRUE(mounts[1].read_only) << "the mount is";
  EXPECT_EQ(mounts[2].source, "/dev/b\tx");
  EXPECT_TRUE(mounts[2].read_only) << "its filesystem is";
}

TEST(Mounts, OwnTableHoldsTheRootWithItsId) {
  const auto mounts = read_mounts();
  ASSERT_TRUE(mounts);
  const auto id = mount_id_of("/");
  ASSERT_TRUE(id) << id.error().message();
  EXPECT_TRUE(std::ranges::any_of(
      *mounts, [&](const Mount& mount) { return mount.target == "/" && mount.id == *id; }));
  EXPECT_FALSE(mount_id_of("/no/such/path"));
}

TEST(Mounts, OverlayPathsAreEscaped) {
  EXPECT_EQ(escape_overlay_path("/plain/path.1"), "/plain/path.1");
  EXPECT_EQ(escape_overlay_path("/a:b,c\\d"), "/a\\:b\\,c\\\\d");
}

}  // namespace
}  // namespace baton::sys
