// One address space whose written pages are tracked, and the newest copy of each of its pages.
//
// What makes it correct. A page counts as copied only while it is write-protected in a registered
// mapping *and* held in the store. Protection is put on by our scans alone, each of which reports
// the page, and it is copied after that; the kernel takes it off at the first write, and drops it
// with the page or the mapping. So a page that is protected at the freeze has not changed since it
// was copied. Everything else that is populated at the freeze is copied then, or, if its mapping is
// not registered, left to CRIU, whose view is the exact complement (see criu/shim).
//
// Private file mappings are the exception: the kernel keeps the protection of a page that is
// dropped there (MADV_DONTNEED) and gives it to the one that comes in its place. A write makes that
// one a copy of the file's page first and takes the protection off second, in a fault of its own,
// and a thread may be stopped in between. So what a process has of its own in such mappings (mostly
// data of libraries) is copied in each freeze; content that is known already costs no room.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "agent/engine/page_set.h"
#include "agent/engine/page_store.h"
#include "base/result.h"
#include "sys/pagemap.h"
#include "sys/userfaultfd.h"

namespace baton::agent {

// Memory that is reused for all copying, so that none is touched for the first time in a freeze.
class CopyBuffers {
 public:
  // `freeze_bytes`: how much a freeze may copy before it has to write to the store meanwhile.
  static Result<CopyBuffers> create(std::size_t freeze_bytes);
  CopyBuffers(CopyBuffers&& other) noexcept;
  CopyBuffers& operator=(CopyBuffers&&) = delete;
  ~CopyBuffers();

  std::span<char> round() const { return {memory_, round_bytes}; }
  std::span<char> freeze() const { return {memory_ + round_bytes, freeze_bytes_}; }

 private:
  static constexpr std::size_t round_bytes = 256 << 10;
  CopyBuffers(char* memory, std::size_t freeze_bytes)
      : memory_(memory), freeze_bytes_(freeze_bytes) {}
  char* memory_;
  std::size_t freeze_bytes_;
};

// Pages copied in a freeze that are not in their store yet.
class FreezeCopies {
 public:
  explicit FreezeCopies(const CopyBuffers& buffers) : memory_(buffers.freeze()) {}

  Status add(PageStore& store, std::uint64_t address, std::span<const char> content);
  // Writes them to their stores. Must be called before a store is read or written otherwise.
  Status settle();
  std::uint64_t pages() const { return pages_; }

 private:
  struct Piece {
    PageStore* store;
    std::uint64_t address;
    std::size_t offset;
    std::size_t size;
  };
  std::span<char> memory_;
  std::size_t used_ = 0;
  std::vector<Piece> pieces_;
  std::uint64_t pages_ = 0;
};

// Thread-compatible: one thread at a time.
class TrackedSpace {
 public:
  // Starts to track the memory of `pid`, which nobody tracks yet. Unfit: it can't be tracked; the
  // message says why.
  static Result<std::unique_ptr<TrackedSpace>> attach(pid_t pid, PagePacks& packs,
                                                      const sys::TrackingAbility& ability);

  // Whether `pid` has this or another tracked address space. NotFound: it has none, it ended.
  static Result<bool> is_tracked(pid_t pid);

  // Registers what was mapped since, while `pid` stands still. FailedPrecondition: `pid` has left
  // this address space. Unavailable: it can't be stopped now; what was registered is still so, and
  // the rest is CRIU's for this once.
  Status register_mappings(pid_t pid);

  // Copies what was written since the last scan, while the process runs. Returns the pages copied.
  // FailedPrecondition, NotFound: `pid` left this space, which is intact (others may still use it).
  // After any other error it must be dropped.
  Result<std::uint64_t> copy_written(pid_t pid, const CopyBuffers& buffers);

  // The process is frozen and CRIU has not seen the registered mappings: copies what is not copied
  // yet and returns all pages that the checkpoint needs from the store. After an error the space
  // must be dropped.
  Result<PageSet> copy_rest(pid_t pid, FreezeCopies& copies, const CopyBuffers& buffers);

  // After copy_rest(), in the same freeze: CRIU has written into the program's code meanwhile, and
  // put back what was there. Brings `pages` up to date where code is mapped.
  Status copy_code_again(pid_t pid, PageSet& pages, FreezeCopies& copies,
                         const CopyBuffers& buffers);

  // Holds none of its copies any more: all will be made anew.
  void distrust() { store_.forget_all(); }

  PageStore& store() { return store_; }
  const sys::Userfaultfd& userfaultfd() const { return userfaultfd_; }

 private:
  TrackedSpace(sys::Userfaultfd userfaultfd, PageStore store, const sys::TrackingAbility& ability)
      : userfaultfd_(std::move(userfaultfd)),
        store_(std::move(store)),
        guard_(ability.guard_pages ? std::uint64_t{sys::page_is_guard} : 0) {}

  // Mappings of the process's own that are not registered. Brings file_mappings_ up to date.
  Result<std::vector<PageRun>> list_unregistered(pid_t pid);
  Status copy_while_running(pid_t pid, const PageSet& written, const CopyBuffers& buffers);
  // Replaces `regions` by the matches in the query's range that are the process's own: neither the
  // page cache's nor the zero page, and no guard pages.
  Status scan_own_pages(const sys::Pagemap& pagemap, sys::PageQuery query,
                        std::vector<sys::PageRegion>& regions) const;
  Status resolve_markers(pid_t pid, const sys::PageQuery& query,
                         std::vector<sys::PageRegion>& regions, const sys::Pagemap& pagemap) const;
  Result<PageSet> copy_frozen(pid_t pid, const sys::Pagemap& pagemap, const PageRun& range,
                              FreezeCopies& copies, const CopyBuffers& buffers);

  sys::Userfaultfd userfaultfd_;
  PageStore store_;
  std::uint64_t guard_;
  PageSet file_mappings_;                 // private ones, as last listed
  std::vector<PageRun> refused_;          // mappings that the kernel does not track
  std::vector<sys::PageRegion> regions_;  // kept for its capacity
};

}  // namespace baton::agent
