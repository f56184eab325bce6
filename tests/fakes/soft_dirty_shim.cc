// Part of a shim for CRIU that tests load in place of Baton's (src/criu/shim), of which it has all
// other parts: simulates the soft-dirty marks of a kernel that has none.
//
// A page that is registered for asynchronous write protection loses its protection when it is
// written, and a page that is not registered has none. So "not protected" stands for the mark, and
// a test takes marks off by protecting pages while the program stands still.

#include <stdarg.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

extern "C" long syscall(long number, ...);

namespace {

// include/uapi/linux/fs.h
struct PageRegion {
  uint64_t start;
  uint64_t end;
  uint64_t categories;
};
struct ScanArguments {
  uint64_t size;
  uint64_t flags;
  uint64_t start;
  uint64_t end;
  uint64_t walk_end;
  PageRegion* vec;
  uint64_t vec_len;
  uint64_t max_pages;
  uint64_t category_inverted;
  uint64_t category_mask;
  uint64_t category_anyof_mask;
  uint64_t return_mask;
};

constexpr unsigned long pagemap_scan = _IOWR('f', 16, ScanArguments);
constexpr uint64_t page_is_wp_allowed = 1 << 0;  // registered
constexpr uint64_t page_is_written = 1 << 1;     // not protected
constexpr uint64_t page_is_present = 1 << 3;
constexpr uint64_t page_is_soft_dirty = 1 << 7;

}  // namespace

extern "C" __attribute__((visibility("default"))) int ioctl(int fd, unsigned long request, ...) {
  va_list list;
  va_start(list, request);
  void* argument = va_arg(list, void*);
  va_end(list);
  auto* scan = static_cast<ScanArguments*>(argument);
  const bool asks = request == pagemap_scan && scan && (scan->return_mask & page_is_soft_dirty);
  if (asks) scan->return_mask |= page_is_wp_allowed | page_is_written;
  const long result = syscall(SYS_ioctl, fd, request, argument);
  for (long i = 0; asks && i < result; ++i) {
    uint64_t& categories = scan->vec[i].categories;
    // What is not present may be a marker that the protection of a page of a file has left behind.
    const bool clean = (categories & page_is_wp_allowed) && (categories & page_is_present) &&
                       !(categories & page_is_written);
    categories = clean ? categories & ~page_is_soft_dirty : categories | page_is_soft_dirty;
    categories &= ~(page_is_wp_allowed | page_is_written);
  }
  return static_cast<int>(result);
}
