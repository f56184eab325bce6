// Part of the shim that is loaded into CRIU: files that it opens by openat().
//
// Images go to /.baton/quick if that is there, a file system in memory: to make a file there costs
// a tenth of what it costs on a disk, and CRIU makes a dozen for each process and one for each
// thread while the program stands still. Those that hold content, and may be large, stay where they
// belong. The engine collects them (Sandbox::quick_images_directory).
#include "criu/shim/open_file.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/syscall.h>

extern "C" long syscall(long number, ...);

namespace {

bool starts_with(const char* text, const char* prefix) {
  while (*prefix)
    if (*text++ != *prefix++) return false;
  return true;
}

bool equal(const char* a, const char* b) {
  while (*a && *a == *b) ++a, ++b;
  return *a == *b;
}

bool is_small_image(const char* path, size_t size) {
  for (const char* letter = path; *letter; ++letter)
    if (*letter == '/') return false;
  if (size < 4 || !starts_with(path + size - 4, ".img")) return false;
  return !starts_with(path, "pages-") && !starts_with(path, "ghost-file-") &&
         !starts_with(path, "ipcns-shm-");
}

int open_quick_image(const char* path, int flags, int mode) {
  constexpr char folder[] = "/.baton/quick/";
  char quick[160];
  size_t size = 0, end = 0;
  while (path[size]) ++size;
  if (!is_small_image(path, size) || size + sizeof folder > sizeof quick) return -1;
  for (const char* letter = folder; *letter; ++letter) quick[end++] = *letter;
  for (const char* letter = path; *letter; ++letter) quick[end++] = *letter;
  quick[end] = '\0';
  return static_cast<int>(syscall(SYS_openat, AT_FDCWD, quick, flags, mode));
}

}  // namespace

extern "C" __attribute__((visibility("default"))) int openat64(int directory, const char* path,
                                                               int flags, ...) {
  va_list list;
  va_start(list, flags);
  const int mode = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(list, int) : 0;
  va_end(list);
  int fd = -1;
  if (equal(path, "smaps")) fd = open_smaps(directory);
  if (flags & O_CREAT) fd = open_quick_image(path, flags, mode);
  if (fd >= 0) return fd;
  return static_cast<int>(syscall(SYS_openat, directory, path, flags, mode));
}
