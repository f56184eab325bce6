#include "sys/userfaultfd.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <vector>

#include "sys/pagemap.h"

namespace baton::sys {
namespace {

// include/uapi/linux/userfaultfd.h of Linux 6.7; older headers lack them.
constexpr std::uint64_t feature_wp_unpopulated = 1 << 13;
constexpr std::uint64_t feature_wp_async = 1 << 15;
constexpr int flag_user_mode_only = 1;

class ProbeMapping {
 public:
  explicit ProbeMapping(std::size_t pages) : bytes_(pages * page_bytes) {
    address_ = ::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    // A huge page would make one dirty page out of many.
    if (valid()) ::madvise(address_, bytes_, MADV_NOHUGEPAGE);
  }
  ProbeMapping(const ProbeMapping&) = delete;
  ProbeMapping& operator=(const ProbeMapping&) = delete;
  ~ProbeMapping() {
    if (valid()) ::munmap(address_, bytes_);
  }
  bool valid() const { return address_ != MAP_FAILED; }
  std::uint64_t start() const { return reinterpret_cast<std::uint64_t>(address_); }
  std::uint64_t end() const { return start() + bytes_; }
  void write(std::size_t page) { static_cast<volatile char*>(address_)[page * page_bytes] = 1; }
  // Moves to another place, as a growing allocation would.
  bool move() {
    void* target = ::mmap(nullptr, bytes_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (target == MAP_FAILED) return false;
    void* moved = ::mremap(address_, bytes_, bytes_, MREMAP_MAYMOVE | MREMAP_FIXED, target);
    if (moved == MAP_FAILED) {
      ::munmap(target, bytes_);
      return false;
    }
    address_ = moved;
    return true;
  }

 private:
  std::size_t bytes_;
  void* address_;
};

Result<std::uint64_t> written_pages(const Pagemap& pagemap, const ProbeMapping& mapping,
                                    bool protect) {
  std::vector<PageRegion> regions;
  BATON_CHECK(pagemap.scan({.start = mapping.start(),
                            .end = mapping.end(),
                            .required = page_is_written,
                            .any_of = page_is_present | page_is_swapped,
                            .reported = page_is_written | page_is_present,
                            .write_protect = protect},
                           regions));
  std::uint64_t pages = 0;
  for (const PageRegion& region : regions) pages += region.pages();
  return pages;
}

Status unfit(std::string reason) { return fail(ErrorCode::Unfit, std::move(reason)); }

Status expect_written(const Pagemap& pagemap, const ProbeMapping& mapping, bool protect,
                      std::uint64_t expected, std::string_view when) {
  BATON_TRY(std::uint64_t pages, written_pages(pagemap, mapping, protect));
  if (pages == expected) return {};
  return unfit(fmt::format("the kernel's page tracking is not exact: {} pages instead of {} {}",
                           pages, expected, when));
}

Status probe(bool& guard_pages) {
  auto uffd = Userfaultfd::create();
  if (!uffd) return unfit(uffd.error().message());
  BATON_TRY(Pagemap pagemap, Pagemap::open(::getpid()));
  ProbeMapping mapping(8);
  if (!mapping.valid()) return fail_errno("map memory for a probe");
  for (std::size_t page : {0, 1, 2, 5}) mapping.write(page);
  BATON_TRY(auto registered, uffd->track(mapping.start(), mapping.end()));
  if (registered != Userfaultfd::Registered::Yes)
    return unfit("the kernel refuses to write-protect private memory");
  auto scan_works = written_pages(pagemap, mapping, false);
  if (!scan_works) return unfit("no PAGEMAP_SCAN (Linux 6.7 brought it)");
  BATON_CHECK(expect_written(pagemap, mapping, true, 4, "at first"));
  BATON_CHECK(expect_written(pagemap, mapping, true, 0, "without a write"));
  mapping.write(1);
  mapping.write(7);
  BATON_CHECK(expect_written(pagemap, mapping, true, 2, "after two writes"));
  if (!mapping.move()) return fail_errno("move memory for a probe");
  BATON_TRY(auto moved, uffd->track(mapping.start(), mapping.end()));
  if (moved != Userfaultfd::Registered::Yes) return unfit("moved memory can't be protected");
  // Linux before 6.13 kept the protection of moved pages: they would look as if copied already.
  BATON_CHECK(expect_written(pagemap, mapping, true, 5, "after mremap"));
  std::vector<PageRegion> none;
  guard_pages = pagemap
                    .scan({.start = mapping.start(),
                           .end = mapping.end(),
                           .required_unset = page_is_guard,
                           .any_of = page_is_present,
                           .reported = page_is_present},
                          none)
                    .has_value();
  return {};
}

}  // namespace

int userfaultfd_flags() { return O_CLOEXEC | O_NONBLOCK | flag_user_mode_only; }

Result<Userfaultfd> Userfaultfd::create() {
  Fd fd(static_cast<int>(::syscall(SYS_userfaultfd, userfaultfd_flags())));
  if (!fd.valid()) return fail_errno("userfaultfd");
  return adopt(std::move(fd));
}

Result<Userfaultfd> Userfaultfd::adopt(Fd fd) {
  uffdio_api api{};
  api.api = UFFD_API;
  api.features = feature_wp_async | feature_wp_unpopulated;
  if (::ioctl(fd.get(), UFFDIO_API, &api) != 0) {
    if (errno == EINVAL)
      return fail(ErrorCode::Unfit, "no asynchronous write protection (Linux 6.7 brought it)");
    return fail_errno("set up userfaultfd");
  }
  return Userfaultfd(std::move(fd));
}

Result<Userfaultfd::Registered> Userfaultfd::track(std::uint64_t start, std::uint64_t end) const {
  uffdio_register range{};
  range.range.start = start;
  range.range.len = end - start;
  range.mode = UFFDIO_REGISTER_MODE_WP;
  if (::ioctl(fd_.get(), UFFDIO_REGISTER, &range) == 0) return Registered::Yes;
  switch (errno) {
    // The kernel says ENOMEM when the address space has no user left.
    case ENOMEM:
    case ESRCH: return Registered::SpaceGone;
    case EBUSY: return Registered::Taken;
    // EINVAL: a kind that can't be tracked; EPERM: a shared mapping of a file that may not be
    // written.
    case EINVAL:
    case EPERM: return Registered::NotPossible;
    default: return fail_errno("register memory with userfaultfd");
  }
}

Status Userfaultfd::unprotect(std::uint64_t start, std::uint64_t end) const {
  uffdio_writeprotect range{};
  range.range = {start, end - start};
  while (::ioctl(fd_.get(), UFFDIO_WRITEPROTECT, &range) != 0) {
    // EAGAIN: the mappings are being changed; ENOENT: they are not registered (any more).
    if (errno == EAGAIN) continue;
    if (errno == ENOENT || errno == ESRCH || errno == ENOMEM || errno == EINVAL) return {};
    return fail_errno("take write protection off");
  }
  return {};
}

TrackingAbility probe_tracking() {
  TrackingAbility ability;
  auto outcome = probe(ability.guard_pages);
  ability.available = outcome.has_value();
  if (!outcome) ability.reason = outcome.error().message();
  return ability;
}

}  // namespace baton::sys
