// Which pages of a process are populated, written, on file …: the PAGEMAP_SCAN ioctl on
// /proc/PID/pagemap (Linux 6.7; include/uapi/linux/fs.h names the figures below).
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <vector>

#include "base/fd.h"
#include "base/result.h"

namespace baton::sys {

inline constexpr std::uint64_t page_bytes = 4096;
// The end that every x86-64 and arm64 kernel accepts for a scan; the vsyscall page lies behind it.
inline constexpr std::uint64_t address_space_end = 0x7fff'ffff'f000;

// PAGE_IS_*: what a page is.
enum PageCategory : std::uint64_t {
  page_is_wp_allowed = 1 << 0,  // its mapping is registered for asynchronous write protection
  page_is_written = 1 << 1,     // not write-protected, or written since it was
  page_is_file = 1 << 2,        // page cache (shared memory included), not a private copy
  page_is_present = 1 << 3,
  page_is_swapped = 1 << 4,  // in swap, or a marker in the page table without content
  page_is_zero = 1 << 5,     // the kernel's page of zeros
  page_is_huge = 1 << 6,
  page_is_soft_dirty = 1 << 7,
  page_is_guard = 1 << 8,  // MADV_GUARD_INSTALL; unknown to kernels before 6.16
};

// Neighbouring pages of the same categories; the kernel's struct page_region.
struct PageRegion {
  std::uint64_t start = 0;
  std::uint64_t end = 0;
  std::uint64_t categories = 0;

  std::uint64_t pages() const { return (end - start) / page_bytes; }
  friend bool operator==(const PageRegion&, const PageRegion&) = default;
};

struct PageQuery {
  std::uint64_t start = 0;
  std::uint64_t end = 0;             // 0: the end of the address space
  std::uint64_t required = 0;        // all of these set …
  std::uint64_t required_unset = 0;  // … all of these not set …
  std::uint64_t any_of = 0;          // … and, if not 0, at least one of these
  std::uint64_t reported = 0;        // what comes back in PageRegion::categories
  bool write_protect = false;        // protects the written ones among the matches, atomically
  std::uint64_t pages_max = 0;       // stop after so many; 0: no limit
  // The kernel keeps others from changing the address space while it looks for matches, such as the
  // program that maps memory, or CRIU at work in it: so look for no more than some thousands at a
  // time. Not where huge pages of hugetlbfs are: one in which a piece ends would be left out.
  bool in_pieces = false;
};

// One address space: the one that the process had when this was opened. A later exec of the
// process leaves it looking at the old one.
class Pagemap {
 public:
  // NotFound: no such process.
  static Result<Pagemap> open(pid_t pid);

  // Appends the matches in address order. With write_protect, an error means that some matches may
  // have been protected without being reported: the caller has to take all pages as written.
  Status scan(const PageQuery& query, std::vector<PageRegion>& matches) const;

 private:
  explicit Pagemap(Fd fd) : fd_(std::move(fd)) {}
  Fd fd_;
};

}  // namespace baton::sys
