// Part of the shim that is loaded into CRIU: what CRIU reads in /proc/PID/smaps, without waiting
// for the kernel to look at every page.
//
// Of all that stands there CRIU uses what /proc/PID/maps has as well, and the line VmFlags. To
// print the rest the kernel walks all page tables, 10 ms per GiB, while the program stands still.
// The tracking engine reads the flags before, and leaves those of large processes in
// /.baton/images/flags-PID:
//
//   VmLck:          0 kB                                          as in /proc/PID/status
//   7f0000000000-7f0040000000 rw-p 00000000 00:00 0<tab>rd wr …   a mapping as in maps, its flags
//
// They are given to CRIU when all mappings are still there and as much memory is locked; else the
// kernel is asked. That leaves advice (madvise) for a whole mapping that was given meanwhile: the
// engine reads the flags again once the program runs, and takes the checkpoint again if they
// differ.
//
// CRIU reads smaps only after it has stopped all tasks. The first time, this writes a byte to the
// fifo /.baton/images/stopped, if there is one: the engine may copy what no longer changes.

#include <fcntl.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "criu/shim/open_file.h"

extern "C" long syscall(long number, ...);

namespace {

// Reads of this size get one mapping each: when the kernel fills a larger buffer, the last mapping
// often does not fit and is looked at a second time.
constexpr size_t smaps_step = 512;
constexpr size_t plain_step = 1 << 16;
constexpr size_t size_max = size_t{1} << 30;

// The content of a file, in memory of its own.
class Text {
 public:
  Text() = default;
  Text(const Text&) = delete;
  ~Text() {
    if (data_) syscall(SYS_munmap, data_, capacity_);
  }

  bool read(int directory, const char* path, size_t step) {
    const long fd = syscall(SYS_openat, directory, path, O_RDONLY | O_CLOEXEC, 0);
    if (fd < 0) return false;
    long count = 1;
    while (count > 0 && reserve(size_ + step)) {
      count = syscall(SYS_read, fd, data_ + size_, step);
      if (count > 0) size_ += static_cast<size_t>(count);
    }
    syscall(SYS_close, fd);
    return count == 0;
  }

  bool append(const char* text, size_t size) {
    if (!reserve(size_ + size)) return false;
    for (size_t i = 0; i < size; ++i) data_[size_ + i] = text[i];
    size_ += size;
    return true;
  }

  const char* begin() const { return data_; }
  const char* end() const { return data_ + size_; }
  size_t size() const { return size_; }

 private:
  bool reserve(size_t size) {
    if (size <= capacity_) return true;
    size_t capacity = capacity_ ? capacity_ : plain_step;
    while (capacity < size) capacity *= 2;
    if (capacity > size_max) return false;
    const long at = data_ ? syscall(SYS_mremap, data_, capacity_, capacity, MREMAP_MAYMOVE)
                          : syscall(SYS_mmap, 0L, capacity, PROT_READ | PROT_WRITE,
                                    MAP_PRIVATE | MAP_ANONYMOUS, -1L, 0L);
    if (at == -1) return false;
    data_ = reinterpret_cast<char*>(at);
    capacity_ = capacity;
    return true;
  }

  char* data_ = nullptr;
  size_t size_ = 0;
  size_t capacity_ = 0;
};

// One line after the other; without its end.
struct Lines {
  const char* at;
  const char* end;
  const char* line = nullptr;
  size_t size = 0;

  explicit Lines(const Text& text) : at(text.begin()), end(text.end()) {}
  bool next() {
    if (at == end) return false;
    line = at;
    while (at != end && *at != '\n') ++at;
    size = static_cast<size_t>(at - line);
    if (at != end) ++at;
    return true;
  }
};

bool starts_with(const Lines& lines, const char* prefix) {
  size_t i = 0;
  for (; prefix[i]; ++i)
    if (i >= lines.size || lines.line[i] != prefix[i]) return false;
  return true;
}

bool same(const char* a, const char* b, size_t size) {
  for (size_t i = 0; i < size; ++i)
    if (a[i] != b[i]) return false;
  return true;
}

constexpr char flags_name[] = "VmFlags: ";
constexpr char locked_name[] = "VmLck:";

// The size of locked memory in a line of /proc/PID/status, after its blanks.
bool same_locked(const Lines& a, const Lines& b) {
  const char *one = a.line + sizeof locked_name - 1, *other = b.line + sizeof locked_name - 1;
  const char *one_end = a.line + a.size, *other_end = b.line + b.size;
  while (one < one_end && (*one == ' ' || *one == '\t')) ++one;
  while (other < other_end && (*other == ' ' || *other == '\t')) ++other;
  const size_t size = static_cast<size_t>(one_end - one);
  return one_end - one == other_end - other && same(one, other, size);
}

bool locked_as_noted(int directory, const Lines& noted) {
  Text status;
  if (!starts_with(noted, locked_name) || !status.read(directory, "status", plain_step))
    return false;
  for (Lines now(status); now.next();)
    if (starts_with(now, locked_name)) return same_locked(now, noted);
  return false;
}

// The file's name is made of the pid that begins /proc/PID/stat.
bool read_noted(int directory, Text& noted) {
  Text stat;
  if (!stat.read(directory, "stat", plain_step)) return false;
  char path[64] = "/.baton/images/flags-";
  size_t end = sizeof "/.baton/images/flags-" - 1;
  for (const char* digit = stat.begin(); digit != stat.end() && *digit >= '0' && *digit <= '9';
       ++digit)
    if (end < sizeof path - 1) path[end++] = *digit;
  path[end] = '\0';
  return noted.read(AT_FDCWD, path, plain_step);
}

bool from_noted(int directory, Text& answer) {
  Text noted, maps;
  if (!read_noted(directory, noted)) return false;
  Lines known(noted);
  if (!known.next() || !locked_as_noted(directory, known)) return false;
  if (!maps.read(directory, "maps", plain_step)) return false;
  for (Lines mapping(maps); mapping.next();) {
    size_t key = 0;
    do {
      if (!known.next()) return false;
      for (key = 0; key < known.size && known.line[key] != '\t';) ++key;
    } while (key > mapping.size || !same(known.line, mapping.line, key) ||
             (key < mapping.size && mapping.line[key] != ' '));
    if (key == known.size) return false;
    if (!answer.append(mapping.line, mapping.size) || !answer.append("\n", 1) ||
        !answer.append(flags_name, sizeof flags_name - 1) ||
        !answer.append(known.line + key + 1, known.size - key - 1) || !answer.append("\n", 1))
      return false;
  }
  return answer.size() != 0;
}

// What stands about a mapping between its own line and the flags begins with a capital letter.
bool from_kernel(int directory, Text& answer) {
  Text smaps;
  if (!smaps.read(directory, "smaps", smaps_step)) return false;
  for (Lines line(smaps); line.next();) {
    const bool is_figure = line.size != 0 && *line.line >= 'A' && *line.line <= 'Z';
    if (is_figure && !starts_with(line, flags_name)) continue;
    if (!answer.append(line.line, line.size) || !answer.append("\n", 1)) return false;
  }
  return answer.size() != 0;
}

int open_answer(const Text& answer) {
  const long fd = syscall(SYS_memfd_create, "smaps", MFD_CLOEXEC);
  if (fd < 0) return -1;
  for (size_t done = 0; done < answer.size();) {
    const long count = syscall(SYS_write, fd, answer.begin() + done, answer.size() - done);
    if (count <= 0) {
      syscall(SYS_close, fd);
      return -1;
    }
    done += static_cast<size_t>(count);
  }
  syscall(SYS_lseek, fd, 0L, SEEK_SET);
  return static_cast<int>(fd);
}

void tell_stopped() {
  static bool told = false;
  if (told) return;
  told = true;
  const long fd =
      syscall(SYS_openat, AT_FDCWD, "/.baton/images/stopped", O_WRONLY | O_NONBLOCK | O_CLOEXEC, 0);
  if (fd < 0) return;
  syscall(SYS_write, fd, "s", 1L);
  syscall(SYS_close, fd);
}

}  // namespace

int open_smaps(int directory) {
  tell_stopped();
  Text noted, printed;
  int fd = from_noted(directory, noted) ? open_answer(noted) : -1;
  if (fd < 0 && from_kernel(directory, printed)) fd = open_answer(printed);
  return fd;
}
