// What a job has open from the base, moved to a node whose base is another.
#include <gmock/gmock.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <fstream>
#include <sstream>

#include "agent/engine/record.h"
#include "agent_engine_fixture.h"
#include "sys/file.h"

namespace baton::agent {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

// The files that the dynamic loader would map for `program`.
std::vector<fs::path> libraries(const fs::path& program) {
  std::vector<fs::path> found;
  FILE* list = ::popen(("ldd " + program.string()).c_str(), "r");
  std::array<char, 4096> line{};
  while (list && std::fgets(line.data(), line.size(), list)) {
    std::istringstream words(line.data());
    for (std::string word; words >> word;)
      if (word.starts_with('/')) found.emplace_back(word);
  }
  if (list) ::pclose(list);
  return found;
}

class EngineBase : public EngineTest {
 protected:
  void SetUp() override {
    EngineTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    program_ = program_directory() / "statework";
    one_ = make_base("one");
    two_ = make_base("two");
    base_ = one_;
  }

  // A root with the program and what it needs, and nothing else.
  fs::path make_base(const std::string& name) {
    fs::path base = directory_ / name;
    for (const char* folder : {"dev", "proc", "sys", "run", "tmp", "etc"})
      fs::create_directories(base / folder);
    fs::permissions(base / "tmp", fs::perms::all);
    auto files = libraries(program_);
    files.push_back(program_);
    for (const auto& file : files) {
      fs::path target = base / file.relative_path();
      fs::create_directories(target.parent_path());
      fs::copy_file(file, target, fs::copy_options::overwrite_existing);
    }
    return base;
  }

  // A checkpoint of a job over the first base; the job is gone.
  fs::path take_checkpoint(std::string* printed) {
    Sandbox* sandbox = start_workload("counter");
    if (!sandbox) return {};
    auto checkpoint = next_checkpoint();
    auto info = engine_->checkpoint(*sandbox, checkpoint);
    if (!info) {
      ADD_FAILURE() << info.error().message();
      return {};
    }
    EXPECT_TRUE(sandbox->kill());
    *printed = output(*sandbox).substr(0, info->output_bytes);
    return checkpoint;
  }

  fs::path library(const fs::path& base, const std::string& part) {
    for (const auto& file : libraries(program_))
      if (file.filename().string().starts_with(part)) return base / file.relative_path();
    ADD_FAILURE() << "no library " << part;
    return {};
  }

  fs::path program_, one_, two_;
};

TEST_F(EngineBase, MissingAndChangedFilesComeFromTheCheckpoint) {
  std::string printed;
  fs::path checkpoint = take_checkpoint(&printed);
  ASSERT_FALSE(checkpoint.empty());
  // An upgrade, a removal, other permissions, and a program that is gone with its folder.
  std::ofstream(library(two_, "libc.so"), std::ios::app) << "another version";
  fs::remove(library(two_, "libm.so"));
  ASSERT_EQ(::chmod(library(two_, "libstdc++").c_str(), 0700), 0);
  fs::remove_all(two_ / program_.relative_path().parent_path());
  base_ = two_;
  auto restored = restore(checkpoint);
  ASSERT_TRUE(restored) << restored.error().message() << "\n" << log_tail_;
  await_lines(**restored, 10, printed.size());
  // A second move, back: now they are in the private layer.
  auto again = next_checkpoint();
  auto info = engine_->checkpoint(**restored, again);
  ASSERT_TRUE(info) << info.error().message();
  ASSERT_TRUE((*restored)->kill());
  printed += output(**restored).substr(printed.size(), info->output_bytes - printed.size());
  base_ = one_;
  auto back = restore(again);
  ASSERT_TRUE(back) << back.error().message() << "\n" << log_tail_;
  await_lines(**back, 10, printed.size());
  expect_whole(**back, printed);
}

TEST_F(EngineBase, SameBaseIsNotCopied) {
  std::string printed;
  fs::path checkpoint = take_checkpoint(&printed);
  ASSERT_FALSE(checkpoint.empty());
  base_ = two_;  // equal content, other inodes and times
  auto restored = restore(checkpoint);
  ASSERT_TRUE(restored) << restored.error().message();
  for (const auto& [name, folder] : (*restored)->private_trees()) {
    if (name != "upper") continue;
    EXPECT_FALSE(fs::exists(folder / program_.relative_path()));
  }
  await_lines(**restored, 10, printed.size());
  expect_whole(**restored, printed);
}

TEST_F(EngineBase, DamagedContentIsNotUsed) {
  std::string printed;
  fs::path checkpoint = take_checkpoint(&printed);
  ASSERT_FALSE(checkpoint.empty());
  auto record = read_record(checkpoint);
  ASSERT_TRUE(record);
  EXPECT_GE(record->base_files.size(), 4u);
  for (const auto& file : record->base_files)
    if (file.path.find("libm.so") != std::string::npos) {
      // The checkpoint's file is a hard link to the cache's: replaced, not written to.
      fs::path content = checkpoint / "base-files" / file.hash;
      ASSERT_TRUE(fs::remove(content));
      std::ofstream(content) << "something else";
    }
  fs::remove(library(two_, "libm.so"));
  base_ = two_;
  auto restored = restore(checkpoint);
  ASSERT_FALSE(restored);
  EXPECT_EQ(restored.error().code(), ErrorCode::Damaged);
  EXPECT_THAT(restored.error().message(), HasSubstr("libm.so"));
}

}  // namespace
}  // namespace baton::agent
