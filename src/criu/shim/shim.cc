// Loaded into CRIU by its dynamic loader (--preload). It mends what CRIU can't do here and needs
// nothing but __errno_location from libc, so that it loads with any glibc.
//
// prlimit64: the kernel lets a process read another's limits only with equal user ids or
// CAP_SYS_RESOURCE, which containers and some machines withhold even from root. CRIU then refuses
// every process of another user ("Can't get rlimit 0"). The same figures stand in
// /proc/PID/limits, readable to whoever may ptrace the process. CRIU makes the call through libc's
// syscall(), which this file takes the place of.
//
// Its other parts have files of their own: pagemap_scan.cc, interrupted_call.cc, mapping_flags.cc,
// open_file.cc.

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/syscall.h>

extern "C" long syscall(long number, ...);

namespace {

long raw_syscall(long number, long a, long b, long c, long d, long e, long f) {
#if defined(__x86_64__)
  long result;
  register long r10 asm("r10") = d;
  register long r8 asm("r8") = e;
  register long r9 asm("r9") = f;
  asm volatile("syscall"
               : "=a"(result)
               : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
               : "rcx", "r11", "memory");
  return result;
#elif defined(__aarch64__)
  register long x8 asm("x8") = number;
  register long x0 asm("x0") = a;
  register long x1 asm("x1") = b;
  register long x2 asm("x2") = c;
  register long x3 asm("x3") = d;
  register long x4 asm("x4") = e;
  register long x5 asm("x5") = f;
  asm volatile("svc #0"
               : "+r"(x0)
               : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
               : "memory");
  return x0;
#else
#error "no system call instruction known for this machine"
#endif
}

struct Limit {
  uint64_t soft;
  uint64_t hard;
};

// Appends `number` in decimal; returns the new end.
char* put_decimal(char* at, unsigned long number) {
  char digits[20];
  int count = 0;
  do {
    digits[count++] = static_cast<char>('0' + number % 10);
  } while (number /= 10);
  while (count) *at++ = digits[--count];
  return at;
}

char* put_text(char* at, const char* text) {
  while (*text) *at++ = *text++;
  return at;
}

// A figure or "unlimited" at `at`, after blanks; moves past it. False at the end of the line.
bool take_value(const char*& at, uint64_t& value) {
  while (*at == ' ') ++at;
  if (*at == 'u') {
    value = UINT64_MAX;
    while (*at >= 'a' && *at <= 'z') ++at;
    return true;
  }
  if (*at < '0' || *at > '9') return false;
  value = 0;
  while (*at >= '0' && *at <= '9') value = value * 10 + static_cast<uint64_t>(*at++ - '0');
  return true;
}

// Line 1 + resource holds "Max cpu time              unlimited            unlimited …": the kernel
// prints the limits in the order of their numbers, the name padded to 25.
bool limit_from_text(const char* text, unsigned resource, Limit& limit) {
  for (unsigned line = 0; line <= resource; ++line) {
    while (*text && *text != '\n') ++text;
    if (!*text) return false;
    ++text;
  }
  for (int column = 0; column < 25; ++column)
    if (!*text || *text++ == '\n') return false;
  return take_value(text, limit.soft) && take_value(text, limit.hard);
}

bool limit_from_proc(long pid, unsigned resource, Limit& limit) {
  char path[48];
  char* end = put_text(path, "/proc/");
  end = put_decimal(end, static_cast<unsigned long>(pid));
  end = put_text(end, "/limits");
  *end = '\0';
  long fd = raw_syscall(SYS_openat, AT_FDCWD, reinterpret_cast<long>(path), O_RDONLY | O_CLOEXEC, 0,
                        0, 0);
  if (fd < 0) return false;
  char text[4096];
  long size = 0;
  for (;;) {
    long count = raw_syscall(SYS_read, fd, reinterpret_cast<long>(text + size),
                             static_cast<long>(sizeof text) - 1 - size, 0, 0, 0);
    if (count <= 0) break;
    size += count;
  }
  raw_syscall(SYS_close, fd, 0, 0, 0, 0, 0);
  text[size] = '\0';
  return limit_from_text(text, resource, limit);
}

}  // namespace

extern "C" __attribute__((visibility("default"))) long syscall(long number, ...) {
  va_list list;
  va_start(list, number);
  long a[6];
  for (long& argument : a) argument = va_arg(list, long);
  va_end(list);
  long result = raw_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
  if (number == SYS_prlimit64 && result == -EPERM && a[0] > 0 && !a[2] && a[3]) {
    if (limit_from_proc(a[0], static_cast<unsigned>(a[1]), *reinterpret_cast<Limit*>(a[3])))
      return 0;
  }
  if (result < 0 && result > -4096) {
    errno = static_cast<int>(-result);
    return -1;
  }
  return result;
}
