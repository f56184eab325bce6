// Checkpoints by soft-dirty, with images as CRIU writes them but made here: no kernel that marks
// written pages is needed.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <unistd.h>

#include <cstdlib>
#include <random>
#include <set>

#include "agent/engine/checkpoint_layout.h"
#include "agent/engine/soft_dirty_memory.h"
#include "fakes/temp_dir.h"
#include "image_pages.h"
#include "sys/file.h"

namespace baton::agent {
namespace {

namespace fs = std::filesystem;
using criu::PagemapImage;
using sys::page_bytes;
using testing::HasSubstr;
using testing::StartsWith;
using Pages = std::map<std::uint64_t, std::string>;  // by address

constexpr std::uint64_t base = 0x10'0000;
constexpr const char* untracked = "no tracking in this test";

std::uint64_t at(std::uint64_t page) { return base + page * page_bytes; }

std::string content(std::uint64_t seed) {
  std::string page(page_bytes, '\0');
  if (seed == 0) return page;
  std::mt19937_64 random(seed);
  for (std::size_t i = 0; i < page.size(); i += 64) page[i] = static_cast<char>(random());
  page.replace(0, sizeof seed, reinterpret_cast<const char*>(&seed), sizeof seed);
  return page;
}

struct Process {
  Pages pages;
  std::set<std::uint64_t> marked;
  bool known = false;  // it lived at the last dump that took marks off

  void write(std::uint64_t address, std::uint64_t seed) {
    pages[address] = content(seed);
    marked.insert(address);
  }
  void drop(std::uint64_t address) {
    pages.erase(address);
    marked.erase(address);
  }
};
using Job = std::map<pid_t, Process>;

void write_file(const fs::path& path, std::string_view data) {
  auto file = sys::open_file(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
  ASSERT_TRUE(file) << file.error().message();
  ASSERT_TRUE(sys::write_all(file->get(), data));
}

class SoftDirty : public testing::Test {
 protected:
  void SetUp() override { begin(); }

  // The folders of the next checkpoint, and what CRIU is to be told.
  void begin() {
    sandbox_images_ = temp_.path() / fmt::format("sandbox-{}", count_);
    checkpoint_ = temp_.path() / fmt::format("checkpoint-{}", count_++);
    ASSERT_TRUE(sys::make_directories(sandbox_images_));
    ASSERT_TRUE(sys::make_directories(images()));
    options_ = {};
  }
  fs::path images() const { return checkpoint_ / layout::images_folder; }
  fs::path parent() const { return sandbox_images_ / options_.parent_images; }
  void before_dump() {
    auto told = memory_.before_dump({}, sandbox_images_, untracked, options_);
    ASSERT_TRUE(told) << told.error().message();
  }

  // As CRIU does it: page by page; what is not marked is named only, and has to be in the parent.
  // `processes_max`: so many are dumped before it fails.
  Status dump(std::size_t processes_max = ~std::size_t{0}) {
    write_file(images() / "inventory.img", "inventory");
    std::uint32_t pages_id = 0;
    for (auto& [pid, process] : job_) {
      if (processes_max-- == 0) return fail(ErrorCode::Internal, "dump failed");
      BATON_CHECK(dump_process(pid, process, ++pages_id));
      if (!options_.track_memory) continue;
      process.marked.clear();
      process.known = true;
    }
    return {};
  }
  Status dump_process(pid_t pid, const Process& process, std::uint32_t pages_id) {
    std::set<std::uint64_t> in_parent;
    const auto number = static_cast<std::uint32_t>(pid);
    if (process.known && options_.track_memory && !options_.parent_images.empty() &&
        fs::exists(criu::pagemap_path(parent(), number))) {
      EXPECT_EQ(sys::read_file(parent() / "inventory.img").value_or(""), "inventory");
      BATON_TRY(auto image, criu::read_pagemap(criu::pagemap_path(parent(), number)));
      for (const auto& run : image.runs)
        for (auto page = run.address; page < run.end(); page += page_bytes) in_parent.insert(page);
    }
    PagemapImage image{pages_id, {}};
    std::string pages;
    for (const auto& [address, bytes] : process.pages) {
      const bool named = !in_parent.empty() && !process.marked.contains(address);
      if (named && !in_parent.contains(address))
        return fail(ErrorCode::Internal, "Missing page in parent pagemap");
      const std::uint32_t lazy = random_() % 2 ? criu::pagemap_lazy : 0;
      const std::uint32_t flags = named ? criu::pagemap_in_parent : criu::pagemap_present | lazy;
      if (!named) pages += bytes;
      auto& runs = image.runs;
      if (!runs.empty() && runs.back().end() == address && runs.back().flags == flags)
        ++runs.back().pages;
      else
        runs.push_back({address, 1, flags});
    }
    if (!pages.empty()) write_file(criu::pages_path(images(), pages_id), pages);
    return criu::write_pagemap(criu::pagemap_path(images(), number), image);
  }

  // One whole checkpoint of job_.
  void take() {
    begin();
    before_dump();
    auto dumped = dump();
    ASSERT_TRUE(dumped) << dumped.error().message();
    auto saved = memory_.save(checkpoint_, false);
    ASSERT_TRUE(saved) << saved.error().message();
  }
  // What a restore would get.
  static void expect_holds(const fs::path& checkpoint, const std::map<pid_t, Pages>& wanted,
                           const fs::path& scratch) {
    auto completed = complete_images(checkpoint, scratch);
    ASSERT_TRUE(completed) << completed.error().message();
    std::set<pid_t> pids;
    for (const auto& [pid, pages] : wanted) {
      auto found = read_image_pages(scratch, pid);
      ASSERT_TRUE(found) << pid << ": " << found.error().message();
      EXPECT_TRUE(*found == pages) << "process " << pid << " in " << checkpoint;
    }
    auto maps = read_maps(checkpoint);
    ASSERT_TRUE(maps) << maps.error().message();
    EXPECT_EQ(maps->size(), wanted.size());
  }
  std::map<pid_t, Pages> wanted() const {
    std::map<pid_t, Pages> wanted;
    for (const auto& [pid, process] : job_) wanted[pid] = process.pages;
    return wanted;
  }
  void expect_holds() { expect_holds(checkpoint_, wanted(), temp_.path() / "complete"); }

  // Images of one process 7, as they are given; then save().
  Status save_made(const PagemapImage& image, std::size_t page_file_bytes) {
    write_file(images() / "inventory.img", "inventory");
    write_file(criu::pages_path(images(), image.pages_id), std::string(page_file_bytes, 'x'));
    EXPECT_TRUE(criu::write_pagemap(criu::pagemap_path(images(), 7), image));
    return memory_.save(checkpoint_, false);
  }
  void expect_refused(const Status& saved, const std::string& why) {
    ASSERT_FALSE(saved);
    // Damaged would mean that the job is.
    EXPECT_EQ(saved.error().code(), ErrorCode::Internal);
    EXPECT_THAT(saved.error().message(), HasSubstr(why));
    EXPECT_TRUE(memory_.another_try(saved.error()));
    memory_.abandon();
    begin();
    before_dump();
    EXPECT_TRUE(options_.parent_images.empty());
  }

  fakes::TempDir temp_;
  SoftDirtyMemory memory_{temp_.path() / "packs"};
  Job job_;
  std::mt19937_64 random_{7};
  fs::path sandbox_images_, checkpoint_;
  criu::SessionOptions options_;
  int count_ = 0;
};

TEST_F(SoftDirty, TheFirstDumpIsFullAndTheNextBuildsOnIt) {
  for (std::uint64_t page : {0, 1, 2, 5}) job_[7].write(at(page), page + 1);
  take();
  EXPECT_TRUE(options_.track_memory);
  EXPECT_TRUE(options_.parent_images.empty());
  EXPECT_EQ(memory_.dumped_pages(), 4u);
  EXPECT_EQ(memory_.description(), fmt::format("soft-dirty: {}", untracked));
  expect_holds();
  job_[7].write(at(1), 20);
  take();
  EXPECT_FALSE(options_.parent_images.empty());
  EXPECT_EQ(memory_.dumped_pages(), 1u);
  EXPECT_EQ(memory_.saved().pages, 4u);
  expect_holds();
  // What it was needed for is in the packs: CRIU's own pages are gone.
  EXPECT_FALSE(fs::exists(criu::pages_path(images(), 1)));
  auto image = criu::read_pagemap(criu::pagemap_path(images(), 7));
  ASSERT_TRUE(image) << image.error().message();
  EXPECT_TRUE(image->runs.empty());
}

TEST_F(SoftDirty, PagesThatComeGoAndAreZero) {
  for (std::uint64_t page = 0; page < 1000; ++page) job_[7].write(at(page), page % 3);
  take();
  expect_holds();
  for (std::uint64_t page = 0; page < 1000; page += 5) job_[7].drop(at(page));
  job_[7].write(at(1), 0);
  job_[7].write(at(3), 33);
  for (std::uint64_t page = 5000; page < 5300; ++page) job_[7].write(at(page), page);
  take();
  EXPECT_EQ(memory_.dumped_pages(), 302u);
  expect_holds();
  take();
  EXPECT_EQ(memory_.dumped_pages(), 0u);
  EXPECT_EQ(memory_.saved().new_bytes, 0u);
  expect_holds();
}

TEST_F(SoftDirty, ProcessesComeAndGo) {
  job_[7].write(at(0), 1);
  job_[8].write(at(0), 2);
  take();
  job_[9].write(at(0), 3);
  job_.erase(8);
  job_[7].write(at(1), 4);
  take();
  EXPECT_EQ(memory_.dumped_pages(), 2u);
  expect_holds();
  job_[8].write(at(0), 5);  // another under a pid that was in use
  take();
  expect_holds();
}

TEST_F(SoftDirty, EarlierCheckpointsNeedNoneOfTheLaterOnesAndTheOtherWayRound) {
  std::vector<std::pair<fs::path, std::map<pid_t, Pages>>> taken;
  for (std::uint64_t round = 0; round < 5; ++round) {
    for (std::uint64_t page = round; page < 50; page += 7)
      job_[7].write(at(page), round * 64 + page);
    take();
    taken.emplace_back(checkpoint_, wanted());
  }
  const auto [last, pages] = taken.back();
  taken.pop_back();
  for (const auto& [checkpoint, wanted] : taken) {
    expect_holds(checkpoint, wanted, temp_.path() / "complete");
    ASSERT_TRUE(sys::remove_tree(checkpoint));
  }
  expect_holds(last, pages, temp_.path() / "complete");
}

TEST_F(SoftDirty, PagesTheParentLacksAreAnError) {
  job_[7].write(at(0), 1);
  take();
  begin();
  before_dump();
  expect_refused(save_made({1,
                            {{at(0), 1, criu::pagemap_in_parent},
                             {at(1), 1, criu::pagemap_present},
                             {at(4), 2, criu::pagemap_in_parent}}},
                           page_bytes),
                 fmt::format("2 pages, the first at {:#x}", at(4)));
}

TEST_F(SoftDirty, WithoutAParentNoPageMayBeLeftToIt) {
  job_[7].write(at(0), 1);
  take();
  memory_.abandon();  // of the next, before it began
  begin();
  before_dump();
  EXPECT_TRUE(options_.parent_images.empty());
  expect_refused(save_made({1, {{at(0), 1, criu::pagemap_in_parent}}}, 0), "1 pages");
}

TEST_F(SoftDirty, PagesThatAreNowhereAreAnError) {
  before_dump();
  expect_refused(save_made({1, {{at(0), 1, criu::pagemap_lazy}}}, 0), "were not dumped");
}

TEST_F(SoftDirty, PagesFilesOfAnotherSizeAreAnError) {
  for (std::size_t size : {page_bytes, 3 * page_bytes, 2 * page_bytes - 1, std::uint64_t{0}}) {
    before_dump();
    expect_refused(save_made({1, {{at(0), 2, criu::pagemap_present}}}, size), "instead of 8192");
  }
  before_dump();
  write_file(images() / "inventory.img", "inventory");
  ASSERT_TRUE(criu::write_pagemap(criu::pagemap_path(images(), 7),
                                  {1, {{at(0), 2, criu::pagemap_present}}}));
  expect_refused(memory_.save(checkpoint_, false), "pages-1.img");
}

TEST_F(SoftDirty, APagemapThatIsNotWholeIsAnError) {
  before_dump();
  write_file(images() / "inventory.img", "inventory");
  write_file(criu::pagemap_path(images(), 7), "not an image");
  expect_refused(memory_.save(checkpoint_, false), "pagemap-7.img");
}

TEST_F(SoftDirty, SharedMemoryIsCriusAndMustBeWhole) {
  job_[7].write(at(0), 1);
  before_dump();
  ASSERT_TRUE(dump());
  const fs::path pagemap = images() / "pagemap-shmem-3.img";
  ASSERT_TRUE(criu::write_pagemap(pagemap, {9, {{0, 1, criu::pagemap_present}}}));
  write_file(criu::pages_path(images(), 9), content(5));
  ASSERT_TRUE(memory_.save(checkpoint_, false));
  EXPECT_EQ(criu::read_pagemap(pagemap)->runs.size(), 1u);
  EXPECT_TRUE(fs::exists(criu::pages_path(images(), 9)));
  begin();
  before_dump();
  ASSERT_TRUE(dump());
  ASSERT_TRUE(criu::write_pagemap(images() / "pagemap-shmem-3.img",
                                  {9, {{0, 1, criu::pagemap_in_parent}}}));
  expect_refused(memory_.save(checkpoint_, false), "shared memory");
}

TEST_F(SoftDirty, AFailedDumpIsNoParentAndLeavesNone) {
  for (pid_t pid : {7, 8}) job_[pid].write(at(0), 1);
  take();
  for (pid_t pid : {7, 8}) job_[pid].write(at(0), 2);
  begin();
  before_dump();
  EXPECT_FALSE(options_.parent_images.empty());
  auto dumped = dump(1);  // took marks off process 7 already
  ASSERT_FALSE(dumped);
  EXPECT_TRUE(memory_.another_try(dumped.error()));
  memory_.abandon();
  take();
  EXPECT_TRUE(options_.parent_images.empty());
  EXPECT_EQ(memory_.dumped_pages(), 2u);
  expect_holds();
  // The copies of the failed one's parent are good for not being stored again.
  for (pid_t pid : {7, 8}) job_[pid].write(at(1), 3);
  take();
  memory_.abandon();
  take();
  EXPECT_EQ(memory_.dumped_pages(), 4u);
  EXPECT_EQ(memory_.saved().new_bytes, 0u);
  expect_holds();
}

TEST_F(SoftDirty, OtherTiersEndIt) {
  job_[7].write(at(0), 1);
  take();
  memory_.forget();
  EXPECT_FALSE(memory_.another_try(Error(ErrorCode::Internal, "of another tier")));
  take();
  EXPECT_TRUE(options_.parent_images.empty());
  expect_holds();
}

// First without the parent, then without soft-dirty, then no more; and the next checkpoint begins
// from the start.
TEST_F(SoftDirty, WhatIsTriedAfterAFailure) {
  const Error error(ErrorCode::Internal, "Tracking memory is not available");
  job_[7].write(at(0), 1);
  take();
  begin();
  before_dump();
  EXPECT_FALSE(options_.parent_images.empty());
  EXPECT_TRUE(memory_.another_try(error));
  EXPECT_FALSE(memory_.another_try(error)) << "it did not even begin";
  begin();
  before_dump();
  EXPECT_TRUE(options_.track_memory);
  EXPECT_TRUE(options_.parent_images.empty());
  EXPECT_TRUE(memory_.another_try(error));
  begin();
  before_dump();
  EXPECT_FALSE(options_.track_memory);
  EXPECT_THAT(memory_.description(), StartsWith(fmt::format("full: {}", untracked)));
  EXPECT_THAT(memory_.description(), HasSubstr(error.message()));
  ASSERT_TRUE(dump());
  ASSERT_TRUE(memory_.save(checkpoint_, false));
  EXPECT_TRUE(fs::exists(criu::pages_path(images(), 1))) << "CRIU's images stay as they are";
  EXPECT_FALSE(memory_.another_try(error));
  take();
  EXPECT_TRUE(options_.track_memory);
  EXPECT_FALSE(memory_.another_try(error)) << "it was not this that failed";
}

TEST_F(SoftDirty, SomeFailuresAreNotTriedAgain) {
  for (auto code :
       {ErrorCode::Damaged, ErrorCode::TimedOut, ErrorCode::Refused, ErrorCode::NoSpace}) {
    before_dump();
    EXPECT_FALSE(memory_.another_try(Error(code, "")));
  }
}

TEST_F(SoftDirty, AProgramThatMayTakeMarksOffIsDumpedInFull) {
  auto opened = sys::open_file("/proc/self/clear_refs", O_WRONLY);
  ASSERT_TRUE(opened) << opened.error().message();
  ASSERT_TRUE(memory_.before_dump({{7, ::getpid()}}, sandbox_images_, untracked, options_));
  EXPECT_FALSE(options_.track_memory);
  EXPECT_THAT(memory_.description(), HasSubstr("process 7 has clear_refs open"));
  *opened = Fd();
  ASSERT_TRUE(memory_.before_dump({{7, ::getpid()}}, sandbox_images_, untracked, options_));
  EXPECT_TRUE(options_.track_memory);
}

// Random writes, mappings, processes and failures over many checkpoints, each compared with what
// memory was then. BATON_SEED=n repeats one.
class RandomSoftDirty : public SoftDirty {
 protected:
  static constexpr std::uint64_t most_pages = 600;
  std::uint64_t pick(std::uint64_t below) { return random_() % below; }

  void change(Process& process) {
    const std::uint64_t writes = pick(40);
    for (std::uint64_t i = 0; i < writes; ++i)
      process.write(at(pick(most_pages)), pick(4) == 0 ? 0 : 1 + pick(1u << 20));
    if (pick(3) == 0) {
      const std::uint64_t first = pick(most_pages), count = pick(100);
      for (std::uint64_t page = first; page < first + count; ++page) process.drop(at(page));
    }
  }
  void live() {
    if (job_.size() < 5 && pick(4) == 0) {
      Process child = job_.begin()->second;  // a fork keeps the marks, and is new to CRIU
      child.known = false;
      job_.emplace(static_cast<pid_t>(7 + pick(8)), std::move(child));
    }
    if (job_.size() > 1 && pick(5) == 0) job_.erase(std::prev(job_.end()));
    if (pick(10) == 0) {  // exec
      Process& process = job_.begin()->second;
      process.pages.clear();
      process.marked.clear();
    }
    for (auto& [pid, process] : job_) change(process);
  }
  // Whether a checkpoint came of it.
  bool try_take() {
    begin();
    before_dump();
    const std::uint64_t fate = pick(8);
    auto outcome = dump(fate == 0 ? pick(job_.size() + 1) : ~std::size_t{0});
    EXPECT_TRUE(outcome || fate == 0) << outcome.error().message();
    if (outcome && fate == 1) {
      for (const auto& entry : fs::directory_iterator(images()))
        if (entry.path().filename().native().starts_with("pages-")) {
          EXPECT_EQ(::truncate(entry.path().c_str(), 100), 0);
          outcome = memory_.save(checkpoint_, false);
          EXPECT_FALSE(outcome);
          break;
        }
    } else if (outcome) {
      outcome = memory_.save(checkpoint_, false);
      EXPECT_TRUE(outcome) << outcome.error().message();
    }
    // A failure after all was well: of CRIU, in its last step.
    if (outcome && fate == 2) outcome = fail(ErrorCode::Internal, "planted");
    if (!outcome) memory_.abandon();
    return outcome.has_value();
  }
};

TEST_F(RandomSoftDirty, CheckpointsHoldWhatMemoryWas) {
  const char* given = std::getenv("BATON_SEED");
  const std::uint64_t first = given ? std::strtoull(given, nullptr, 10) : 1;
  int taken = 0, built_on_another = 0;
  for (std::uint64_t seed = first; seed < first + (given ? 1 : 5) && !HasFailure(); ++seed) {
    SCOPED_TRACE(fmt::format("BATON_SEED={}", seed));
    random_.seed(seed);
    memory_.forget();
    job_.clear();
    for (std::uint64_t page = 0; page < most_pages; ++page) job_[7].write(at(page), 1 + page);
    for (int round = 0; round < 25 && !HasFailure(); ++round) {
      live();
      if (!try_take()) {
        ASSERT_TRUE(sys::remove_tree(checkpoint_));
        continue;
      }
      ++taken;
      built_on_another += !options_.parent_images.empty();
      expect_holds();
    }
  }
  if (given) return;
  EXPECT_GT(taken, 70);
  EXPECT_GT(built_on_another, 35);
}

}  // namespace
}  // namespace baton::agent
