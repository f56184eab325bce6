// checkpoint.json and a tree that want to reach what is not theirs.
#include <gmock/gmock.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

#include "agent/engine/base_files.h"
#include "agent/engine/record.h"
#include "fakes/temp_dir.h"
#include "store/hash.h"

namespace baton::agent {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

BaseFileRecord base_file(const std::string& path) {
  BaseFileRecord record;
  record.path = path;
  record.tree = "upper";
  record.size_bytes = 4;
  record.mode = S_IFREG | 0644;
  record.hash = store::hash_bytes("evil");
  return record;
}

class HostileRecord : public testing::Test {
 protected:
  std::string refusal(const CheckpointRecord& record) {
    EXPECT_TRUE(write_record(directory_.path(), record));
    auto read = read_record(directory_.path());
    return read ? "it was taken" : read.error().message();
  }
  fakes::TempDir directory_;
};

TEST_F(HostileRecord, ATreeLiesBesideIt) {
  CheckpointRecord record;
  record.trees = {{"upper", "tree-0.tar", {}}};
  EXPECT_EQ(refusal(record), "it was taken");
  for (const char* elsewhere :
       {"/var/lib/other/tree-0.tar", "../other/tree-0.tar", "packs/a", "..", "."}) {
    record.trees[0].archive = elsewhere;
    EXPECT_THAT(refusal(record), HasSubstr("lies elsewhere")) << elsewhere;
  }
}

TEST_F(HostileRecord, AFileOfTheBaseIsAFile) {
  CheckpointRecord record;
  record.base_files = {base_file("/usr/lib/x")};
  EXPECT_EQ(refusal(record), "it was taken");
  record.base_files[0].hash = "/dev/zero";
  EXPECT_THAT(refusal(record), HasSubstr("a file of the base is none"));
  record.base_files = {base_file("/dev/zero")};
  record.base_files[0].mode = S_IFCHR | 0666;
  EXPECT_THAT(refusal(record), HasSubstr("a file of the base is none"));
}

TEST_F(HostileRecord, ALinkInATreeLeadsNowhere) {
  const fs::path base = directory_.path() / "base", upper = directory_.path() / "upper",
                 contents = directory_.path() / "contents", host = directory_.path() / "host";
  for (const auto& folder : {base, upper, contents, host / "inner/deep"})
    fs::create_directories(folder);
  std::ofstream(contents / store::hash_bytes("evil")) << "evil";
  fs::create_directory_symlink(host, upper / "link");
  const BaseView view(base, {{"upper", upper}});
  BaseFileCache cache(directory_.path());
  for (const char* path : {"/link/x", "/link/inner/x", "/link/inner/deep/x", "/link/new/x"}) {
    auto supplied = supply_base_files({base_file(path)}, view, contents, cache);
    ASSERT_FALSE(supplied) << path;
    EXPECT_THAT(supplied.error().message(), HasSubstr("not a folder in the checkpoint"));
  }
  for (const auto& entry : fs::recursive_directory_iterator(host))
    EXPECT_TRUE(entry.is_directory()) << entry.path();
  auto supplied = supply_base_files({base_file("/usr/lib/x")}, view, contents, cache);
  ASSERT_TRUE(supplied) << supplied.error().message();
  EXPECT_TRUE(fs::exists(upper / "usr/lib/x"));
}

}  // namespace
}  // namespace baton::agent
