// Mappings that come, go, move, are dropped, protected, forked and written.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "memwork_pages.h"

namespace memwork {

// One thread's games with its address space. Each step checks at once. Several may play.
class Churn {
 public:
  Churn(const std::string& scratch, std::uint64_t seed) : random_{seed * 31 + 7} {
    int fd = ::open(scratch.c_str(), O_RDWR | O_CREAT | O_TRUNC, 0600);
    std::vector<std::uint64_t> page(page_words);
    for (std::uint64_t i = 0; i < file_pages; ++i) {
      fill(page.data(), i, 1000 + i);
      if (::write(fd, page.data(), page_bytes) != static_cast<ssize_t>(page_bytes)) ::abort();
    }
    file_ = map(file_pages, MAP_PRIVATE, fd);
    file_versions_.resize(file_pages);
    for (std::uint64_t i = 0; i < file_pages; ++i) file_versions_[i] = 1000 + i;
    ::close(fd);
    int shared = ::memfd_create("memwork", 0);
    if (shared < 0 || ::ftruncate(shared, shared_pages * page_bytes) != 0) ::abort();
    for (auto& view : shared_) view = map(shared_pages, MAP_SHARED, shared);
    ::close(shared);
    shared_versions_.assign(shared_pages, 0);
    for (auto& area : areas_) area = fresh();
  }

  bool step() {
    Area& area = areas_[random_.below(areas_count)];
    steps_++;
    switch (random_.below(10)) {
      case 0: return remake(area);
      case 1: return drop(area);
      case 2: return move(area);
      case 3: return protect(area);
      case 4: return fork_and_check(area);
      case 5: return file_write();
      case 6: return file_drop();
      case 7: return shared_write();
      case 8: return recurse(static_cast<int>(random_.below(60)), random_.next());
      default: return write_some(area);
    }
  }
  bool check_all() {
    for (auto& area : areas_)
      if (!check_area(area)) return false;
    for (std::uint64_t i = 0; i < file_pages; ++i)
      if (!memwork::check(file_ + i * page_words, i, file_versions_[i]))
        return failed("file mapping");
    for (std::uint64_t i = 0; i < shared_pages; ++i)
      if (!memwork::check(shared_[0] + i * page_words, i, shared_versions_[i]))
        return failed("shared mapping");
    return true;
  }
  std::uint64_t steps() const { return steps_; }

 private:
  static constexpr std::size_t areas_count = 12;
  static constexpr std::uint64_t file_pages = 64;
  static constexpr std::uint64_t shared_pages = 16;
  struct Area {
    std::uint64_t* memory = nullptr;
    std::size_t pages = 0;
    std::vector<std::uint64_t> versions;  // 0: reads as zero
  };

  static std::uint64_t* map(std::size_t pages, int flags, int fd = -1) {
    void* memory = ::mmap(nullptr, pages * page_bytes, PROT_READ | PROT_WRITE, flags, fd, 0);
    if (memory == MAP_FAILED) ::abort();
    return static_cast<std::uint64_t*>(memory);
  }
  Area fresh() {
    Area area;
    area.pages = 1 + random_.below(200);
    bool huge = random_.below(12) == 0;
    if (huge) area.pages = 1024;
    area.memory = map(area.pages, MAP_PRIVATE | MAP_ANONYMOUS);
    if (huge) ::madvise(area.memory, area.pages * page_bytes, MADV_HUGEPAGE);
    area.versions.assign(area.pages, 0);
    return area;
  }
  bool check_area(const Area& area, const char* what = "area") {
    for (std::size_t i = 0; i < area.pages; ++i)
      if (!memwork::check(area.memory + i * page_words, i, area.versions[i])) return failed(what);
    return true;
  }
  bool write_some(Area& area) {
    for (int n = 0; n < 8; ++n) {
      std::size_t i = random_.below(area.pages);
      fill(area.memory + i * page_words, i, ++version_);
      area.versions[i] = version_;
    }
    return check_area(area, "after writes");
  }
  bool remake(Area& area) {
    if (!check_area(area, "before munmap")) return false;
    ::munmap(area.memory, area.pages * page_bytes);
    area = fresh();
    return check_area(area, "fresh mapping");
  }
  bool drop(Area& area) {
    std::size_t first = random_.below(area.pages), count = 1 + random_.below(area.pages - first);
    ::madvise(area.memory + first * page_words, count * page_bytes, MADV_DONTNEED);
    std::fill_n(area.versions.begin() + static_cast<std::ptrdiff_t>(first), count, 0);
    return check_area(area, "after MADV_DONTNEED");
  }
  bool move(Area& area) {
    std::size_t pages = 1 + random_.below(200);
    void* moved = MAP_FAILED;
    if (random_.below(2)) {
      // Over a mapping of ours, which the kernel removes: a hole could be another thread's by now.
      void* target = map(pages, MAP_PRIVATE | MAP_ANONYMOUS);
      moved = ::mremap(area.memory, area.pages * page_bytes, pages * page_bytes,
                       MREMAP_MAYMOVE | MREMAP_FIXED, target);
    } else {
      moved = ::mremap(area.memory, area.pages * page_bytes, pages * page_bytes, MREMAP_MAYMOVE);
    }
    if (moved == MAP_FAILED) return failed("mremap");
    area.memory = static_cast<std::uint64_t*>(moved);
    area.pages = pages;
    area.versions.resize(pages, 0);
    return check_area(area, "after mremap");
  }
  bool protect(Area& area) {
    ::mprotect(area.memory, area.pages * page_bytes, PROT_NONE);
    timespec pause{0, 2'000'000};
    ::nanosleep(&pause, nullptr);
    ::mprotect(area.memory, area.pages * page_bytes, PROT_READ | PROT_WRITE);
    return check_area(area, "after mprotect");
  }
  bool fork_and_check(Area& area) {
    pid_t child = ::fork();
    if (child == 0) {
      bool good = write_some(area);
      timespec pause{0, static_cast<long>(random_.below(30'000'000))};
      ::nanosleep(&pause, nullptr);
      ::_exit(good && check_all() ? 0 : 1);
    }
    int status = 0;
    while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    if (WIFSIGNALED(status)) {
      static char text[40];
      std::snprintf(text, sizeof text, "a child died of signal %d", WTERMSIG(status));
      return failed(text);
    }
    if (status != 0) return failed("a child's memory");
    return check_area(area, "after fork");
  }
  bool file_write() {
    std::uint64_t i = random_.below(file_pages);
    fill(file_ + i * page_words, i, ++version_);
    file_versions_[i] = version_;
    return memwork::check(file_ + i * page_words, i, version_) || failed("file page written");
  }
  bool file_drop() {
    std::uint64_t first = random_.below(file_pages), count = 1 + random_.below(4);
    count = std::min(count, file_pages - first);
    ::madvise(file_ + first * page_words, count * page_bytes, MADV_DONTNEED);
    for (std::uint64_t i = first; i < first + count; ++i) file_versions_[i] = 1000 + i;
    // Not read back at once: what is checked later must not have been lost either.
    return true;
  }
  // Both mappings show the same pages; no other process writes to them.
  bool shared_write() {
    std::uint64_t i = random_.below(shared_pages);
    fill(shared_[i % 2] + i * page_words, i, ++version_);
    shared_versions_[i] = version_;
    return memwork::check(shared_[1 - i % 2] + i * page_words, i, version_) ||
           failed("shared page written");
  }
  bool recurse(int depth, std::uint64_t stamp) {
    volatile std::uint64_t frame[page_words];
    for (std::size_t i = 0; i < page_words; i += 64) frame[i] = stamp + i;
    if (depth > 0 && !recurse(depth - 1, stamp + 1)) return false;
    for (std::size_t i = 0; i < page_words; i += 64)
      if (frame[i] != stamp + i) return failed("stack");
    return true;
  }

  Random random_;
  std::uint64_t version_ = 1;
  std::uint64_t steps_ = 0;
  Area areas_[areas_count];
  std::uint64_t* file_ = nullptr;
  std::vector<std::uint64_t> file_versions_;
  std::uint64_t* shared_[2] = {};
  std::vector<std::uint64_t> shared_versions_;
};

}  // namespace memwork
