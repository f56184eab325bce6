// Kinds of processes, without CRIU: they are stopped by a signal instead, and what the tracker
// captured is compared with what their memory holds.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <functional>
#include <set>

#include "agent/engine/checkpoint_layout.h"
#include "agent/engine/memory_save.h"
#include "agent/engine/tracker.h"
#include "sys/file.h"
#include "sys/process_attributes.h"

namespace baton::agent {

namespace fs = std::filesystem;
using sys::page_bytes;

constexpr std::size_t region_pages = 300;

class TrackedProcess : public testing::Test {
 protected:
  void SetUp() override {
    auto ability = sys::probe_tracking();
    if (!ability.available) GTEST_SKIP() << "no page tracking here: " << ability.reason;
    std::string pattern = "/var/tmp/baton-tracked-XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    directory_ = pattern;
    auto tracker = Tracker::create({.packs_directory = directory_ / "packs"});
    ASSERT_TRUE(tracker) << tracker.error().message();
    tracker_ = std::move(*tracker);
    // Shared, so that the test tells the child when to go on, and the child that it did.
    step_ = static_cast<volatile int*>(
        ::mmap(nullptr, page_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    region_ = static_cast<char*>(::mmap(nullptr, region_pages * page_bytes, PROT_READ | PROT_WRITE,
                                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    for (std::size_t i = 0; i < region_pages; i += 2)
      region_[i * page_bytes] = static_cast<char>(i);
  }
  void TearDown() override {
    tracker_.reset();
    for (pid_t pid : children_) {
      ::kill(pid, SIGKILL);
      ::waitpid(pid, nullptr, __WALL);
    }
    if (region_) ::munmap(region_, region_pages * page_bytes);
    if (!directory_.empty()) (void)sys::remove_tree(directory_);
  }

  // A child that runs `body` after it said 1 in step_.
  pid_t start(const std::function<void()>& body) {
    *step_ = 0;
    pid_t pid = ::fork();
    if (pid == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      body();
      ::_exit(0);
    }
    children_.push_back(pid);
    await(1);
    return pid;
  }
  void say(int step) { *step_ = step; }
  void await(int step) {
    for (int i = 0; i < 5000 && *step_ != step; ++i) ::usleep(1000);
    EXPECT_EQ(*step_, step) << "the child hangs";
  }
  void wait_for(int step) {
    while (*step_ != step) ::usleep(500);
  }

  // Captures the frozen processes and compares. Returns what was captured.
  std::vector<FrozenMemory> freeze(const std::vector<pid_t>& pids) {
    for (pid_t pid : pids) ::kill(pid, SIGSTOP);
    for (pid_t pid : pids)
      for (auto state = sys::status_field(pid, "State");
           state && !std::string_view("TtZ").contains(state->front());
           state = sys::status_field(pid, "State"))
        ::usleep(500);
    auto memory = tracker_->copy_rest(pids);
    EXPECT_TRUE(memory) << memory.error().message();
    EXPECT_TRUE(tracker_->settle());
    compare(*memory);
    for (pid_t pid : pids) ::kill(pid, SIGCONT);
    return std::move(*memory);
  }
  // What a checkpoint would hold with what the processes do.
  void compare(const std::vector<FrozenMemory>& memory) {
    fs::path checkpoint = directory_ / fmt::format("checkpoint-{}", checkpoints_++);
    std::map<pid_t, pid_t> same_pids;
    for (const FrozenMemory& process : memory) same_pids[process.pid] = process.pid;
    auto saved = tracker_->save(memory, same_pids, checkpoint, true);
    ASSERT_TRUE(saved) << saved.error().message();
    auto maps = read_maps(checkpoint);
    ASSERT_TRUE(maps) << maps.error().message();
    for (const FrozenMemory& process : memory) {
      const store::PageMap& map = maps->at(process.pid);
      ASSERT_EQ(map.pages(), process.pages.pages());
      for (const store::MapRun& run : map.runs) compare(process, map, run, checkpoint / "packs");
    }
  }
  static void compare(const FrozenMemory& process, const store::PageMap& map,
                      const store::MapRun& run, const fs::path& packs) {
    std::string real(run.pages * page_bytes, 0), copy(run.pages * page_bytes, 0);
    auto memory = sys::open_file(fmt::format("/proc/{}/mem", process.pid), O_RDONLY);
    ASSERT_TRUE(memory) << memory.error().message();
    // Unlike process_vm_readv, it reads what the process itself may not.
    ASSERT_TRUE(sys::pread_all(memory->get(), real.data(), real.size(), run.address));
    if (run.pack != store::kZeroPages) {
      auto pack = store::PackReader::open(packs / map.packs.at(run.pack).hash);
      ASSERT_TRUE(pack) << pack.error().message();
      ASSERT_TRUE((*pack)->read(run.first, static_cast<std::uint32_t>(run.pages), copy.data()));
    }
    ASSERT_EQ(real == copy, true) << "stale copy at " << std::hex << run.address;
  }
  std::set<std::size_t> captured_region_pages(const FrozenMemory& process) const {
    std::set<std::size_t> pages;
    auto start = reinterpret_cast<std::uint64_t>(region_);
    for (const PageRun& run : process.pages.runs())
      for (std::uint64_t at = run.start; at < run.end; at += page_bytes)
        if (at >= start && at < start + region_pages * page_bytes)
          pages.insert((at - start) / page_bytes);
    return pages;
  }
  ProcessReport report_of(pid_t pid) const {
    for (const auto& report : tracker_->report())
      if (report.pid == pid) return report;
    ADD_FAILURE() << "no report of " << pid;
    return {};
  }
  void refresh(const std::vector<pid_t>& pids) {
    auto refreshed = tracker_->refresh(pids);
    ASSERT_TRUE(refreshed) << refreshed.error().message();
  }

  fs::path directory_;
  int checkpoints_ = 0;
  std::unique_ptr<Tracker> tracker_;
  volatile int* step_ = nullptr;
  char* region_ = nullptr;
  std::vector<pid_t> children_;
};

}  // namespace baton::agent
