// Loaded into a process (LD_PRELOAD): its wall clock can be stepped while it runs, as by NTP or by
// hand, which no namespace offers. BATON_TEST_CLOCK names a file of 8 bytes: how many nanoseconds
// the clock is ahead of the machine's. What waits in the kernel for a time of the wall clock is not
// told; src/wire/steady_waits.cc sees to it that nothing of Baton's does.
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include <atomic>

namespace {

constexpr int64_t kSecondNs = 1'000'000'000;

std::atomic<int64_t>* offset = nullptr;

__attribute__((constructor)) void open_offset() {
  const char* path = getenv("BATON_TEST_CLOCK");
  const int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  if (fd < 0) return;
  void* page = mmap(nullptr, sizeof(int64_t), PROT_READ, MAP_SHARED, fd, 0);
  close(fd);
  if (page != MAP_FAILED) offset = static_cast<std::atomic<int64_t>*>(page);
}

}  // namespace

extern "C" {

int clock_gettime(clockid_t clock, timespec* time) noexcept {
  if (syscall(SYS_clock_gettime, clock, time) != 0) return -1;
  if (offset && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
    const int64_t ns = time->tv_sec * kSecondNs + time->tv_nsec + offset->load();
    *time = {ns / kSecondNs, ns % kSecondNs};
  }
  return 0;
}

time_t time(time_t* result) noexcept {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  if (result) *result = now.tv_sec;
  return now.tv_sec;
}

int gettimeofday(timeval* __restrict result, void* __restrict) noexcept {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  *result = {now.tv_sec, now.tv_nsec / 1'000};
  return 0;
}

}  // extern "C"
