#include "agent/engine/tracked_space.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "sys/proc_maps.h"
#include "sys/process_memory.h"
#include "sys/remote_call.h"
#include "sys/stand_still.h"

namespace baton::agent {

using sys::MemoryReader;
using sys::PageRegion;

namespace {

PageSet to_set(std::span<const PageRegion> regions, std::uint64_t categories = 0) {
  PageSet set;
  for (const PageRegion& region : regions)
    if ((region.categories & categories) == categories) set.append(region.start, region.end);
  return set;
}

std::vector<MemoryReader::Span> to_spans(const PageSet& set) {
  std::vector<MemoryReader::Span> spans;
  spans.reserve(set.runs().size());
  for (const PageRun& run : set.runs()) spans.push_back({run.start, run.end});
  return spans;
}

// Whether a mapping in [start, end) is registered for write protection.
Result<bool> registered(const sys::Pagemap& pagemap, std::uint64_t start, std::uint64_t end) {
  std::vector<PageRegion> first;
  BATON_CHECK(pagemap.scan({.start = start,
                            .end = std::min(end, sys::address_space_end),
                            .required = sys::page_is_wp_allowed,
                            .reported = sys::page_is_wp_allowed,
                            .pages_max = 1},
                           first));
  return !first.empty();
}

}  // namespace

Result<CopyBuffers> CopyBuffers::create(std::size_t freeze_bytes) {
  void* memory = ::mmap(nullptr, round_bytes + freeze_bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  if (memory == MAP_FAILED) return fail_errno("reserve memory for copying");
  return CopyBuffers(static_cast<char*>(memory), freeze_bytes);
}

CopyBuffers::CopyBuffers(CopyBuffers&& other) noexcept
    : memory_(std::exchange(other.memory_, nullptr)), freeze_bytes_(other.freeze_bytes_) {}

CopyBuffers::~CopyBuffers() {
  if (memory_) ::munmap(memory_, round_bytes + freeze_bytes_);
}

Status FreezeCopies::add(PageStore& store, std::uint64_t address, std::span<const char> content) {
  pages_ += content.size() / sys::page_bytes;
  if (content.size() > memory_.size()) return store.put(address, content);
  if (content.size() > memory_.size() - used_) BATON_CHECK(settle());
  std::memcpy(memory_.data() + used_, content.data(), content.size());
  pieces_.push_back({&store, address, used_, content.size()});
  used_ += content.size();
  return {};
}

Status FreezeCopies::settle() {
  for (const Piece& piece : pieces_)
    BATON_CHECK(piece.store->put(piece.address, {memory_.data() + piece.offset, piece.size}));
  pieces_.clear();
  used_ = 0;
  return {};
}

Result<std::unique_ptr<TrackedSpace>> TrackedSpace::attach(pid_t pid, PagePacks& packs,
                                                           const sys::TrackingAbility& ability) {
  BATON_TRY(Fd fd, sys::take_userfaultfd(pid));
  BATON_TRY(auto userfaultfd, sys::Userfaultfd::adopt(std::move(fd)));
  std::unique_ptr<TrackedSpace> space(
      new TrackedSpace(std::move(userfaultfd), PageStore(packs), ability));
  BATON_CHECK(space->register_mappings(pid));
  BATON_TRY(bool any, is_tracked(pid));
  if (!any) return fail(ErrorCode::Unfit, "none of its memory can be write-protected");
  return space;
}

Result<bool> TrackedSpace::is_tracked(pid_t pid) {
  BATON_TRY(auto pagemap, sys::Pagemap::open(pid));
  std::vector<PageRegion> first;
  BATON_CHECK(pagemap.scan(
      {.required = sys::page_is_wp_allowed, .reported = sys::page_is_wp_allowed, .pages_max = 1},
      first));
  return !first.empty();
}

Result<std::vector<PageRun>> TrackedSpace::list_unregistered(pid_t pid) {
  BATON_TRY(auto mappings, sys::read_mappings(pid));
  BATON_TRY(auto pagemap, sys::Pagemap::open(pid));
  std::vector<PageRun> unregistered;
  file_mappings_.clear();
  for (const sys::Mapping& mapping : mappings) {
    // Shared memory is CRIU's business: its content belongs to no single process.
    if (mapping.shared || mapping.kernel_owned()) continue;
    if (mapping.inode != 0) file_mappings_.append(mapping.start, mapping.end);
    BATON_TRY(bool is_registered, registered(pagemap, mapping.start, mapping.end));
    if (!is_registered) unregistered.push_back({mapping.start, mapping.end});
  }
  return unregistered;
}

// Only while the process stands still: the kernel splits a mapping that has changed since it was
// listed where the registered part ends, and a later mremap of all of it would fail.
Status TrackedSpace::register_mappings(pid_t pid) {
  BATON_TRY(auto unregistered, list_unregistered(pid));
  if (unregistered == refused_) return {};
  std::vector<PageRun> fresh;
  auto done = sys::while_it_stands_still(pid, [&]() -> Status {
    BATON_TRY(unregistered, list_unregistered(pid));
    refused_.clear();
    for (const PageRun& mapping : unregistered) {
      BATON_TRY(auto outcome, userfaultfd_.track(mapping.start, mapping.end));
      using enum sys::Userfaultfd::Registered;
      if (outcome == SpaceGone)
        return fail(ErrorCode::FailedPrecondition, "it has another address space now");
      if (outcome == Yes) fresh.push_back(mapping);
      if (outcome == NotPossible) refused_.push_back(mapping);
    }
    return {};
  });
  // A mapping with which another one merges by mremap loses its registration, but its pages keep
  // their marks of protection and take them along through every write.
  for (const PageRun& mapping : fresh)
    BATON_CHECK(userfaultfd_.unprotect(mapping.start, mapping.end));
  return done;
}

// Telling the page cache's pages from the process's own takes the kernel 20 ms per GiB, as it has
// to look at each page's descriptor; in anonymous memory there are none, so it is asked only where
// files are mapped. Mappings that came since they were listed are not registered, hence no match.
Status TrackedSpace::scan_own_pages(const sys::Pagemap& pagemap, sys::PageQuery query,
                                    std::vector<PageRegion>& regions) const {
  regions.clear();
  query.any_of = sys::page_is_present | sys::page_is_swapped;
  const std::uint64_t first = query.start;
  const std::uint64_t last = query.end != 0 ? query.end : sys::address_space_end;
  auto scan = [&](std::uint64_t start, std::uint64_t end, std::uint64_t cache) -> Status {
    query.start = std::max(start, first);
    query.end = std::min(end, last);
    if (query.start >= query.end) return {};
    query.required_unset = sys::page_is_zero | guard_ | cache;
    query.in_pieces = cache == 0;  // elsewhere there may be pages of hugetlbfs
    return pagemap.scan(query, regions);
  };
  std::uint64_t at = 0;
  for (const PageRun& files : file_mappings_.runs()) {
    BATON_CHECK(scan(at, files.start, 0));
    BATON_CHECK(scan(files.start, files.end, sys::page_is_file));
    at = files.end;
  }
  return scan(at, sys::address_space_end, 0);
}

Status TrackedSpace::copy_while_running(pid_t pid, const PageSet& written,
                                        const CopyBuffers& buffers) {
  MemoryReader reader(pid);
  // A page that went away meanwhile stays out of the store, and is copied in the freeze if it is
  // there again by then.
  std::vector<MemoryReader::Span> unreadable;
  BATON_CHECK(reader.read(
      to_spans(written), buffers.round(),
      [&](std::uint64_t address, std::span<const char> content) {
        return store_.put(address, content);
      },
      unreadable));
  // After an exec in between, what was read was another program's.
  BATON_TRY(bool still_there, is_tracked(pid));
  if (!still_there) return fail(ErrorCode::FailedPrecondition, "it has another address space now");
  return {};
}

Result<std::uint64_t> TrackedSpace::copy_written(pid_t pid, const CopyBuffers& buffers) {
  BATON_TRY(auto pagemap, sys::Pagemap::open(pid));
  // Mappings that are not registered are skipped by the kernel when it is asked to protect.
  BATON_CHECK(scan_own_pages(
      pagemap,
      {.required = sys::page_is_written, .reported = sys::page_is_written, .write_protect = true},
      regions_));
  PageSet written = to_set(regions_);
  store_.forget(written);
  auto copied = copy_while_running(pid, written, buffers);
  if (!copied) {
    store_.forget(written);
    return fail(std::move(copied).error());
  }
  return written.pages();
}

// A protected page of a private file mapping that is dropped (MADV_DONTNEED) leaves a marker in the
// page table, which looks like a swapped page but stands for the file's content. Reading tells
// which: the marker becomes a page of the file, swap becomes a page of the process.
Status TrackedSpace::resolve_markers(pid_t pid, const sys::PageQuery& query,
                                     std::vector<PageRegion>& regions,
                                     const sys::Pagemap& pagemap) const {
  PageSet absent;
  for (const PageRegion& region : regions)
    if (!(region.categories & sys::page_is_present)) absent.append(region.start, region.end);
  PageSet doubtful = intersect(absent, file_mappings_);
  if (doubtful.empty()) return {};
  std::vector<char> page(64 * sys::page_bytes);
  std::vector<MemoryReader::Span> unreadable;
  MemoryReader reader(pid);
  BATON_CHECK(reader.read(
      to_spans(doubtful), page, [](std::uint64_t, std::span<const char>) -> Status { return {}; },
      unreadable));
  PageSet gone;
  for (const auto& span : unreadable) gone.append(span.start, span.end);
  sys::PageQuery again = query;
  again.write_protect = false;
  BATON_CHECK(scan_own_pages(pagemap, again, regions));
  if (!intersect(to_set(regions), gone).empty())
    return fail(ErrorCode::Unfit,
                fmt::format("its memory at {:#x} can't be read", gone.runs().front().start));
  return {};
}

Result<PageSet> TrackedSpace::copy_frozen(pid_t pid, const sys::Pagemap& pagemap,
                                          const PageRun& range, FreezeCopies& copies,
                                          const CopyBuffers& buffers) {
  const sys::PageQuery query{
      .start = range.start,
      .end = range.end,
      .required = sys::page_is_wp_allowed,
      .reported = sys::page_is_present | sys::page_is_swapped | sys::page_is_written,
      .write_protect = true};
  BATON_CHECK(scan_own_pages(pagemap, query, regions_));
  PageSet written = to_set(regions_, sys::page_is_written);
  BATON_CHECK(resolve_markers(pid, query, regions_, pagemap));
  PageSet all = to_set(regions_);
  store_.forget(written);
  store_.forget(intersect(all, file_mappings_));  // protected or not: see the header
  PageSet missing = store_.missing(all);
  MemoryReader reader(pid);
  std::vector<MemoryReader::Span> unreadable;
  BATON_CHECK(reader.read(
      to_spans(missing), buffers.round(),
      [&](std::uint64_t address, std::span<const char> content) {
        return copies.add(store_, address, content);
      },
      unreadable));
  if (!unreadable.empty())
    return fail(ErrorCode::Unfit,
                fmt::format("its memory at {:#x} can't be read", unreadable.front().start));
  return all;
}

Result<PageSet> TrackedSpace::copy_rest(pid_t pid, FreezeCopies& copies,
                                        const CopyBuffers& buffers) {
  BATON_TRY(auto pagemap, sys::Pagemap::open(pid));
  return copy_frozen(pid, pagemap, {0, sys::address_space_end}, copies, buffers);
}

Status TrackedSpace::copy_code_again(pid_t pid, PageSet& pages, FreezeCopies& copies,
                                     const CopyBuffers& buffers) {
  BATON_TRY(auto mappings, sys::read_mappings(pid));
  BATON_TRY(auto pagemap, sys::Pagemap::open(pid));
  PageSet code, now;
  for (const sys::Mapping& mapping : mappings) {
    if (!mapping.executable || mapping.shared || mapping.kernel_owned()) continue;
    code.append(mapping.start, mapping.end);
    BATON_TRY(PageSet part,
              copy_frozen(pid, pagemap, {mapping.start, mapping.end}, copies, buffers));
    for (const PageRun& run : part.runs()) now.append(run.start, run.end);
  }
  pages = unite_disjoint(subtract(pages, code), now);
  return {};
}

}  // namespace baton::agent
