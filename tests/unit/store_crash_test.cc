// A power cut at every step of a history: what was not synced by then is lost. What is under a
// number afterwards must be whole, and what was acknowledged must be there.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <map>
#include <set>

#include "fakes/temp_dir.h"
#include "store/hash.h"
#include "store/upload.h"

namespace baton::store {
namespace {

const JobId kJob(7);

// How what was not synced looks after the cut.
enum class Lost { Empty, Half, Gone };

// The parameter: whether the store is encrypted.
class CrashTest : public testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    StoreOptions options = with_key();
    options.observer = [this](std::string_view step, const fs::path& path) { on(step, path); };
    auto store = CheckpointStore::open(directory_.path(), std::move(options));
    ASSERT_TRUE(store) << store.error().message();
    store_ = std::move(*store);
  }

  void publish(std::uint64_t number, const std::map<std::string, std::string>& files,
               const std::set<std::string>& linked = {}) {
    auto upload = store_->begin_upload(kJob);
    ASSERT_TRUE(upload) << upload.error().message();
    for (const auto& [path, data] : files) {
      if (linked.contains(path)) {
        ASSERT_TRUE((*upload)->link_shared_file(path, data.size(), 0600));
        continue;
      }
      ASSERT_TRUE((*upload)->begin_file(path, data.size(), 0600));
      ASSERT_TRUE((*upload)->write(data));
      cut("a file is half uploaded");
      ASSERT_TRUE((*upload)->end_file(hash_bytes(data)));
    }
    auto published = (*upload)->publish(CheckpointNumber(number), "{}");
    ASSERT_TRUE(published) << published.error().message();
    acknowledged_.insert(number);
    cut("it is acknowledged");
  }
  void remove(std::uint64_t number) {
    acknowledged_.erase(number);
    ASSERT_TRUE(store_->remove(kJob, CheckpointNumber(number)));
    cut("it was removed");
  }
  static StoreOptions with_key() {
    StoreOptions options;
    if (GetParam()) options.keys.emplace();
    return options;
  }
  void remove_job() {
    acknowledged_.clear();
    ASSERT_TRUE(store_->remove_job(kJob));
    cut("all is removed");
  }
  // The power goes now, in every way that is told apart.
  void cut(std::string_view when, const fs::path& undone = {}) {
    std::lock_guard lock(mutex_);
    for (Lost lost : {Lost::Empty, Lost::Half, Lost::Gone}) {
      SCOPED_TRACE(fmt::format("cut {}: {}, kind {}", ++cuts_, when, static_cast<int>(lost)));
      fakes::TempDir after("/dev/shm");  // nothing there waits for a disk
      copy(after.path(), lost);
      if (!undone.empty()) {
        const fs::path name = after.path() / undone.lexically_relative(directory_.path());
        fs::create_directories(after.path() / "checkpoints/.incoming");
        fs::rename(name, after.path() / "checkpoints/.incoming/undone");
      }
      look_at(after.path());
    }
  }

  bool forgotten() const { return forgotten_; }

  std::uint64_t cuts_ = 0;

 private:
  void on(std::string_view step, const fs::path& path) {
    if (step == "sync-file" || step == "key-cluster") {
      struct stat info {};
      std::lock_guard lock(mutex_);
      if (::stat(path.c_str(), &info) == 0) synced_.insert(info.st_ino);
    }
    forgotten_ |= step == "key-forgotten";
    cut(fmt::format("{} {}", step, path.filename().string()));
    // Until its parent is synced, the new name may be lost.
    if (step == "rename" || step == "key-rename") cut("the rename is lost", path);
  }

  void copy(const fs::path& to, Lost lost) {
    std::map<ino_t, fs::path> copies;
    for (const auto& entry : fs::recursive_directory_iterator(directory_.path())) {
      const fs::path target = to / entry.path().lexically_relative(directory_.path());
      if (entry.is_directory()) {
        fs::create_directories(target);
        continue;
      }
      struct stat info {};
      ASSERT_EQ(::lstat(entry.path().c_str(), &info), 0);
      const bool kept = synced_.contains(info.st_ino);
      if (!kept && lost == Lost::Gone) continue;
      if (auto [first, is_new] = copies.emplace(info.st_ino, target); !is_new) {
        fs::create_hard_link(first->second, target);
        continue;
      }
      fs::create_directories(target.parent_path());
      fs::copy_file(entry.path(), target);
      if (!kept) fs::resize_file(target, lost == Lost::Half ? fs::file_size(target) / 2 : 0);
    }
  }

  void look_at(const fs::path& root) {
    auto store = CheckpointStore::open(root, with_key());
    ASSERT_TRUE(store) << store.error().message();
    std::set<std::uint64_t> there;
    auto listed = (*store)->list();
    ASSERT_TRUE(listed);
    for (const auto& [job, number] : *listed) {
      there.insert(number.value);
      auto status = (*store)->verify(job, number);
      EXPECT_EQ(status.has_value(), !forgotten_) << (status ? "" : status.error().message());
    }
    for (std::uint64_t number : acknowledged_)
      EXPECT_TRUE(there.contains(number)) << "checkpoint " << number << " is gone";
    // What is offered to later checkpoints is what its name says.
    auto shared = (*store)->list_shared_files();
    ASSERT_TRUE(shared);
    for (const std::string& name : *shared) {
      if (GetParam() && forgotten_) continue;
      EXPECT_EQ((*store)->check_shared_file(name)->damage, "");
    }
  }

  fakes::TempDir directory_;
  std::unique_ptr<CheckpointStore> store_;
  std::mutex mutex_;
  std::set<ino_t> synced_;
  std::set<std::uint64_t> acknowledged_;
  bool forgotten_ = false;
};

TEST_P(CrashTest, NothingHalfIsEverSeenAndNothingAcknowledgedIsLost) {
  const std::string one = "packs/" + hash_bytes("pages one"), two = "packs/" + hash_bytes("two");
  const std::string base = "base-files/" + hash_bytes("libc");
  publish(1, {{one, "pages one"}, {base, "libc"}, {"images/core-2.img", "registers"}});
  publish(2, {{one, "pages one"}, {two, "two"}, {"memory/2.map", "map"}}, {one});
  remove(1);
  publish(3, {{two, "two"}, {base, "libc"}, {"tree-0.tar", std::string(10'000, 't')}}, {two});
  remove(2);
  remove(3);
  publish(4, {{one, "pages one"}, {"empty", ""}});
  EXPECT_GT(cuts_, 90u);
  remove_job();
  EXPECT_EQ(forgotten(), GetParam());
}

INSTANTIATE_TEST_SUITE_P(, CrashTest, testing::Values(false, true),
                         [](const auto& info) { return info.param ? "Encrypted" : "Clear"; });

}  // namespace
}  // namespace baton::store
