// The memory of a restored job that runs already: pages come when they are touched, and all others
// in the background, newest packs first. Internal to the engine.
//
//   start    before CRIU: listens where `criu restore --lazy-pages` looks for a server of pages
//   ready    in CRIU's last hook: every process has handed its userfaultfd over, and has the pages
//            that were written last
//   begin    the job runs: the rest is put in order, and the background copying begins
//   finish   waits until every page is in its place and nothing of this is left in the job
//
// What makes it correct. A page that is neither there nor known to be awaited reads as zero, which
// is what it held at the checkpoint or what munmap() and madvise() since made of it; the kernel
// tells of these, of mremap() and of fork() before pages can be put anywhere (UFFDIO_COPY fails
// with EAGAIN until they were read), and nobody puts any while they are acted upon. If this process
// dies, the kernel would let all that is missing read as zero: so pid 1 of the sandbox holds the
// userfaultfds as well, and ends everything when it sees us go (SandboxGuard). The same when a page
// can't be read.
//
// What can't be told: the kernel does not order a fork and an munmap() or madvise() of another
// thread at the same time. The child then may lack what was dropped after it was made.
#pragma once

#include <atomic>
#include <condition_variable>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <thread>
#include <vector>

#include "agent/engine/copy_plan.h"
#include "agent/engine/open_packs.h"
#include "agent/engine/page_set.h"
#include "agent/engine/pending_pages.h"
#include "agent/sandbox.h"
#include "base/result.h"
#include "store/page_map.h"
#include "sys/page_faults.h"

namespace baton::agent {

// The pages of one process that CRIU is told to leave out.
struct LazyPages {
  store::PageMap map;  // where all of its pages lie
  PageSet pages;
};

// Thread-safe after start().
class LazyMemory {
 public:
  // `packs`: the checkpoint's; its folder is not needed any more once ready() has returned.
  // `pages`: by the pid in the images.
  static Result<std::unique_ptr<LazyMemory>> start(Sandbox& sandbox, OpenPacks packs,
                                                   std::map<pid_t, LazyPages> pages);
  // Ends the sandbox unless all is in place.
  ~LazyMemory();

  Status ready();
  void begin();
  // Damaged, or what else went wrong: the sandbox was ended for it.
  Status finish();
  // Damaged: CRIU may have died of it.
  Status state() const;

 private:
  struct Space {
    explicit Space(Fd fd) : faults(std::move(fd)) {}
    sys::PageFaults faults;
    PendingPages pending;
    std::vector<std::uint64_t> waiting;  // faults that could not be served yet
  };
  // A process and those that it forks from now on: their pages come from one map.
  struct Family {
    LazyPages lazy;
    CopyPlan plan;
    std::vector<std::unique_ptr<Space>> spaces;
  };

  LazyMemory(std::unique_ptr<SandboxGuard> guard, OpenPacks packs,
             std::map<pid_t, LazyPages> pages);
  Status listen(const std::filesystem::path& images);

  struct AllLocked {
    std::unique_lock<std::shared_mutex> layout;
    std::unique_lock<std::mutex> rest;
  };

  Status await_hand_over();

  // lazy_memory_serve.cc: pages that are touched
  AllLocked lock_for_faults();
  void serve();
  Status serve_turn();
  Status take_connection();
  Status take_message();
  Status add_space(Family& family, Fd fd, PendingPages pending);
  Status handle(Family& family, Space& space);
  Status serve_fault(Family& family, Space& space, std::uint64_t address);

  // lazy_memory_copy.cc: those that nobody waits for
  Status copy_hot();
  Result<OpenPacks> another_packs() const;
  std::unique_lock<std::mutex> lock_in_background();
  void plan();
  void copy_in_background();
  Status copy_step(Family& family, const CopyStep& step, OpenPacks& packs,
                   std::vector<char>& buffer);
  // A part of a space that is awaited, and what belongs there.
  struct Part {
    Space* space;
    PendingPages::Piece piece;
    const char* data;
  };
  // What came of it: [start, end) of the space is awaited no more.
  struct Settled {
    Space* space;
    std::uint64_t start, end;
  };
  static constexpr int kChangingPollMs = 1;
  enum class Put { Done, Changing };
  static Result<Put> put(const Part& part, std::vector<Settled>& settled);
  static void settle(const std::vector<Settled>& settled);
  std::vector<Part> parts_of(const Family& family, const CopyStep& step, const char* data) const;
  bool wanted(const Family& family, const CopyStep& step) const;
  std::optional<std::pair<Family*, CopyStep>> next_step();
  void complete();
  void give_up(Error error);

  Fd listener_;
  Fd connection_;
  Fd wake_;
  Fd epoll_;

  // Held by all who put pages, and alone by who acts upon the kernel's events. Before the other.
  std::shared_mutex layout_;
  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::atomic<bool> faults_first_{false};
  std::unique_ptr<SandboxGuard> guard_;
  std::map<pid_t, std::unique_ptr<Family>> families_;
  std::vector<std::unique_ptr<Family>> strangers_;  // processes without pages of ours
  bool handed_over_ = false;
  bool planned_ = false;  // what is to be copied in the background is known
  bool begun_ = false;
  int copying_ = 0;  // background threads that are not done
  bool complete_ = false;
  bool stopping_ = false;
  std::optional<Error> failure_;
  std::uint64_t bytes_ = 0;
  std::uint64_t faults_ = 0;
  std::int64_t begun_ns_ = 0;

  OpenPacks packs_;  // of the thread that serves; others take theirs from it under the mutex
  std::vector<std::thread> threads_;
};

}  // namespace baton::agent
