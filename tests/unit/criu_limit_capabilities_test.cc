// What images have of capabilities that a node can't give.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>

#include "criu/criu_images.pb.h"
#include "criu/image_file.h"
#include "criu/images.h"
#include "fakes/temp_dir.h"

namespace baton::criu {
namespace {

class LimitCapabilitiesTest : public testing::Test {
 protected:
  void write(const std::string& name, const criu_images::CoreEntry& core) {
    const std::string bytes = core.SerializeAsString();
    const std::uint32_t words[] = {kCommonMagic, kCoreMagic,
                                   static_cast<std::uint32_t>(bytes.size())};
    std::ofstream file(path(name), std::ios::binary);
    file.write(reinterpret_cast<const char*>(words), sizeof words);
    file << bytes;
  }
  static criu_images::CoreEntry core(std::uint64_t set) {
    criu_images::CoreEntry core;
    core.mutable_tc()->set_comm("work");
    auto& creds = *core.mutable_thread_core()->mutable_creds();
    for (auto* words : {creds.mutable_cap_prm(), creds.mutable_cap_eff()}) {
      words->Add(static_cast<std::uint32_t>(set));
      words->Add(static_cast<std::uint32_t>(set >> 32));
    }
    // As CRIU has: what we do not know must stay. Field 12: the bounding set; 13: secure bits.
    auto* unknown = creds.GetReflection()->MutableUnknownFields(&creds);
    unknown->AddVarint(12, 0xffffffff);
    unknown->AddVarint(13, 7);
    return core;
  }
  criu_images::CoreEntry read(const std::string& name) {
    auto cores = read_entries<criu_images::CoreEntry>(path(name), kCoreMagic);
    EXPECT_TRUE(cores);
    return cores && !cores->empty() ? (*cores)[0] : criu_images::CoreEntry();
  }
  std::filesystem::path path(const std::string& name) const { return directory_.path() / name; }
  ino_t inode(const std::string& name) const {
    struct stat info {};
    ::stat(path(name).c_str(), &info);
    return info.st_ino;
  }

  fakes::TempDir directory_;
};

TEST_F(LimitCapabilitiesTest, TakesWhatIsNotGivenAndNothingElse) {
  write("core-2.img", core(0x1ff'ffff'ffffull));
  write("core-3.img", core(0x3));
  std::filesystem::create_hard_link(path("core-2.img"), path("original"));
  const ino_t untouched = inode("core-3.img");
  const std::uint64_t given = 0x100'0000'00ffull;
  auto taken = limit_capabilities(directory_.path(), given);
  ASSERT_TRUE(taken) << taken.error().message();
  EXPECT_EQ(*taken, 0x0ff'ffff'ff00ull);
  const criu_images::CoreEntry expected = core(given);
  EXPECT_EQ(read("core-2.img").SerializeAsString(), expected.SerializeAsString());
  EXPECT_EQ(inode("core-3.img"), untouched) << "it had to lose nothing";
  // The checkpoint itself, which this is a link to, is as it was.
  EXPECT_EQ(read("original").SerializeAsString(), core(0x1ff'ffff'ffffull).SerializeAsString());
}

TEST_F(LimitCapabilitiesTest, DamageIsNamed) {
  std::ofstream(path("core-2.img")) << "no image";
  EXPECT_EQ(limit_capabilities(directory_.path(), 0).error().code(), ErrorCode::Damaged);
}

}  // namespace
}  // namespace baton::criu
