// Part of the shim that is loaded into CRIU: hides the mappings from it whose memory the tracking
// engine copies itself.
//
// CRIU asks the kernel which pages to dump with ioctl(PAGEMAP_SCAN). Those of the engine are in
// mappings registered for asynchronous write protection, and nobody else's are (CRIU refuses
// programs that use userfaultfd). So asking for pages with PAGE_IS_WPALLOWED unset as well makes
// the kernel leave out exactly what is tracked, with no list to keep in step.
//
// On only when CRIU's environment has BATON_HIDE_TRACKED=1, or the folder for its images in a
// sandbox holds a file "hide-tracked". Figures: include/uapi/linux/fs.h.

#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

extern "C" long syscall(long number, ...);
extern "C" char** environ;

namespace {

struct ScanArguments {
  uint64_t size;
  uint64_t flags;
  uint64_t start;
  uint64_t end;
  uint64_t walk_end;
  uint64_t vec;
  uint64_t vec_len;
  uint64_t max_pages;
  uint64_t category_inverted;
  uint64_t category_mask;
  uint64_t category_anyof_mask;
  uint64_t return_mask;
};

constexpr unsigned long pagemap_scan = _IOWR('f', 16, ScanArguments);
constexpr uint64_t page_is_wp_allowed = 1 << 0;
constexpr uint64_t page_is_present = 1 << 3;

bool hiding() {
  if (syscall(SYS_faccessat, AT_FDCWD, "/.baton/images/hide-tracked", F_OK) == 0) return true;
  static constexpr char wanted[] = "BATON_HIDE_TRACKED=1";
  for (char** entry = environ; entry && *entry; ++entry) {
    const char *a = *entry, *b = wanted;
    while (*a && *a == *b) ++a, ++b;
    if (!*a && !*b) return true;
  }
  return false;
}

}  // namespace

extern "C" __attribute__((visibility("default"))) int ioctl(int fd, unsigned long request, ...) {
  va_list list;
  va_start(list, request);
  void* argument = va_arg(list, void*);
  va_end(list);
  // Guard pages, which CRIU asks for by themselves, stay in its view: they are no memory to copy.
  auto* scan = static_cast<ScanArguments*>(argument);
  if (request == pagemap_scan && scan && (scan->category_anyof_mask & page_is_present) &&
      !(scan->category_mask & page_is_wp_allowed) && hiding()) {
    scan->category_mask |= page_is_wp_allowed;
    scan->category_inverted |= page_is_wp_allowed;
  }
  return static_cast<int>(syscall(SYS_ioctl, fd, request, argument));
}
