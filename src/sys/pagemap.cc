#include "sys/pagemap.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/ioctl.h>
#include <sys/ioctl.h>

#include <algorithm>

#include "sys/file.h"

namespace baton::sys {
namespace {

// struct pm_scan_arg of include/uapi/linux/fs.h.
struct ScanArguments {
  std::uint64_t size;
  std::uint64_t flags;
  std::uint64_t start;
  std::uint64_t end;
  std::uint64_t walk_end;
  std::uint64_t vec;
  std::uint64_t vec_len;
  std::uint64_t max_pages;
  std::uint64_t category_inverted;
  std::uint64_t category_mask;
  std::uint64_t category_anyof_mask;
  std::uint64_t return_mask;
};
static_assert(sizeof(ScanArguments) == 96);

constexpr unsigned long pagemap_scan = _IOWR('f', 16, ScanArguments);
constexpr std::uint64_t scan_write_protect = 1 << 0;  // PM_SCAN_WP_MATCHING

constexpr std::size_t regions_per_call = 4096;
// So many matches take a quarter of a millisecond.
constexpr std::uint64_t pages_per_piece = 32'768;

}  // namespace

Result<Pagemap> Pagemap::open(pid_t pid) {
  auto path = fmt::format("/proc/{}/pagemap", pid);
  Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (fd.valid()) return Pagemap(std::move(fd));
  if (errno == ESRCH) return fail(ErrorCode::NotFound, fmt::format("process {} has ended", pid));
  return fail_errno(path);
}

Status Pagemap::scan(const PageQuery& query, std::vector<PageRegion>& matches) const {
  std::uint64_t end = query.end ? query.end : address_space_end;
  std::uint64_t pages_left = query.pages_max ? query.pages_max : UINT64_MAX;
  for (std::uint64_t at = query.start; at < end;) {
    std::size_t before = matches.size();
    matches.resize(before + regions_per_call);
    ScanArguments arguments{};
    arguments.size = sizeof arguments;
    arguments.flags = query.write_protect ? scan_write_protect : 0;
    arguments.start = at;
    arguments.end = end;
    arguments.vec = reinterpret_cast<std::uint64_t>(matches.data() + before);
    arguments.vec_len = regions_per_call;
    const std::uint64_t most = query.in_pieces ? std::min(pages_left, pages_per_piece) : pages_left;
    arguments.max_pages = most == UINT64_MAX ? 0 : most;
    arguments.category_inverted = query.required_unset;
    arguments.category_mask = query.required | query.required_unset;
    arguments.category_anyof_mask = query.any_of;
    arguments.return_mask = query.reported;
    int count = ::ioctl(fd_.get(), pagemap_scan, &arguments);
    matches.resize(before + std::max(count, 0));
    if (count < 0) return fail_errno("scan the page tables");
    std::uint64_t pages = 0;
    for (std::size_t i = before; i < matches.size(); ++i) pages += matches[i].pages();
    pages_left -= pages;
    if (pages_left == 0) break;
    // Room left means that the walk reached the end. (walk_end can't be asked then: Linux 6.18 was
    // seen to leave the place of an earlier stop in it.)
    if (static_cast<std::size_t>(count) < regions_per_call && pages < most) break;
    at = std::max<std::uint64_t>(arguments.walk_end, matches.back().end);
  }
  return {};
}

}  // namespace baton::sys
