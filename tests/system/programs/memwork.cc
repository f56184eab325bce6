// A program whose memory carries an invariant across every page, for proving that a checkpoint
// missed none of them, and for measuring how long it stands still.
//
//   memwork --mb N --threads N --pages-per-ms N --churn 0|1 --seed N --scratch FILE --result FILE
//           --ready FILE --stats FILE
//
// Each thread owns a share of the memory; it picks a page at random, fills all of it from (page,
// version) and notes the version in a table. With --churn the main thread also maps, unmaps,
// remaps, drops, protects and forks, and checks what it expects to read after each.
//
// Writes to the ready file (a fifo) when its memory is filled. "-" as a file is standard output.
// SIGUSR1: the threads stop, every byte is checked, and FILE gets one line:
//   OK <page writes> <largest gap between two writes of a thread, us> <churn steps>
// or "FAIL <what>"; exit code 0 or 1.
//
// The stats file is a page shared with whoever measures: three 64-bit words, the page writes, the
// largest gap in ns, and a word that the other side counts up to forget that gap.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

namespace {

constexpr std::size_t page_words = 512;
constexpr std::size_t page_bytes = 4096;

struct Options {
  std::size_t mb = 64;
  unsigned threads = 2;
  double pages_per_ms = 3;
  bool churn = false;
  std::uint64_t seed = 1;
  std::string scratch = "/tmp/memwork.scratch";
  std::string result = "/tmp/memwork.result";
  std::string ready;
  std::string stats;
};

std::atomic<bool> stop{false};
struct Stats {
  std::atomic<std::uint64_t> writes{0};
  std::atomic<std::int64_t> gap_max_ns{0};
  std::atomic<std::uint64_t> resets{0};
};
Stats own_stats;
Stats* stats = &own_stats;
std::string failure;

std::int64_t now_ns() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1'000'000'000ll + t.tv_nsec;
}

struct Random {
  std::uint64_t state;
  std::uint64_t next() {
    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
  }
  std::uint64_t below(std::uint64_t limit) { return next() % limit; }
};

std::uint64_t word_of(std::uint64_t page, std::uint64_t version, std::uint64_t index) {
  return (page * 0x9e3779b97f4a7c15ull ^ version * 0xc2b2ae3d27d4eb4full) + index;
}

void fill(std::uint64_t* memory, std::uint64_t page, std::uint64_t version) {
  for (std::size_t i = 0; i < page_words; ++i) memory[i] = word_of(page, version, i);
}

bool check(const std::uint64_t* memory, std::uint64_t page, std::uint64_t version) {
  for (std::size_t i = 0; i < page_words; ++i)
    if (memory[i] != (version ? word_of(page, version, i) : 0)) return false;
  return true;
}

void work(std::uint64_t* memory, std::uint32_t* versions, std::size_t first, std::size_t count,
          double pages_per_ms, std::uint64_t seed) {
  Random random{seed * 7919 + 13};
  std::int64_t last = now_ns(), due = last;
  std::uint64_t resets = 0;
  std::int64_t gap = 0;
  while (!stop) {
    std::size_t page = first + random.below(count);
    fill(memory + page * page_words, page, versions[page] + 1u);
    versions[page]++;
    stats->writes.fetch_add(1, std::memory_order_relaxed);
    std::int64_t now = now_ns();
    if (stats->resets != resets) {
      resets = stats->resets;
      gap = 0;
    } else if (now - last > gap) {
      gap = now - last;
      std::int64_t known = stats->gap_max_ns;
      while (known < gap && !stats->gap_max_ns.compare_exchange_weak(known, gap)) {
      }
    }
    last = now;
    due = std::max(due + static_cast<std::int64_t>(1e6 / pages_per_ms), now - 5'000'000);
    // Spinning rather than sleeping: a gap is then a pause and not a late wake-up.
    while (now_ns() < due && !stop) last = now_ns();
  }
}

// The main thread's own games with its address space. Each step checks at once.
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
    for (auto& area : areas_) area = fresh();
  }

  bool step() {
    Area& area = areas_[random_.below(areas_count)];
    steps_++;
    switch (random_.below(9)) {
      case 0: return remake(area);
      case 1: return drop(area);
      case 2: return move(area);
      case 3: return protect(area);
      case 4: return fork_and_check(area);
      case 5: return file_write();
      case 6: return file_drop();
      case 7: return recurse(static_cast<int>(random_.below(60)), random_.next());
      default: return write_some(area);
    }
  }
  bool check_all() {
    for (auto& area : areas_)
      if (!check_area(area)) return false;
    for (std::uint64_t i = 0; i < file_pages; ++i)
      if (!::check(file_ + i * page_words, i, file_versions_[i])) return failed("file mapping");
    return true;
  }
  std::uint64_t steps() const { return steps_; }

 private:
  static constexpr std::size_t areas_count = 12;
  static constexpr std::uint64_t file_pages = 64;
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
  static bool failed(const char* what) {
    failure = what;
    return false;
  }
  Area fresh() {
    Area area;
    area.pages = 1 + random_.below(200);
    area.memory = map(area.pages, MAP_PRIVATE | MAP_ANONYMOUS);
    area.versions.assign(area.pages, 0);
    return area;
  }
  bool check_area(const Area& area, const char* what = "area") {
    for (std::size_t i = 0; i < area.pages; ++i)
      if (!::check(area.memory + i * page_words, i, area.versions[i])) return failed(what);
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
      void* target = map(std::max(pages, area.pages), MAP_PRIVATE | MAP_ANONYMOUS);
      ::munmap(target, std::max(pages, area.pages) * page_bytes);
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
    if (status != 0) return failed("a child's memory");
    return check_area(area, "after fork");
  }
  bool file_write() {
    std::uint64_t i = random_.below(file_pages);
    fill(file_ + i * page_words, i, ++version_);
    file_versions_[i] = version_;
    return ::check(file_ + i * page_words, i, version_) || failed("file page written");
  }
  bool file_drop() {
    std::uint64_t first = random_.below(file_pages), count = 1 + random_.below(4);
    count = std::min(count, file_pages - first);
    ::madvise(file_ + first * page_words, count * page_bytes, MADV_DONTNEED);
    for (std::uint64_t i = first; i < first + count; ++i) file_versions_[i] = 1000 + i;
    // Not read back at once: what is checked later must not have been lost either.
    return true;
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
};

Options parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i + 1 < argc; i += 2) {
    std::string name = argv[i], value = argv[i + 1];
    if (name == "--mb") options.mb = std::stoul(value);
    if (name == "--threads") options.threads = static_cast<unsigned>(std::stoul(value));
    if (name == "--pages-per-ms") options.pages_per_ms = std::stod(value);
    if (name == "--churn") options.churn = value == "1";
    if (name == "--seed") options.seed = std::stoull(value);
    if (name == "--scratch") options.scratch = value;
    if (name == "--result") options.result = value;
    if (name == "--ready") options.ready = value;
    if (name == "--stats") options.stats = value;
  }
  return options;
}

}  // namespace

int main(int argc, char** argv) {
  Options options = parse(argc, argv);
  std::signal(SIGUSR1, [](int) { stop = true; });
  if (!options.stats.empty()) {
    int fd = ::open(options.stats.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || ::ftruncate(fd, page_bytes) != 0) return 2;
    void* shared = ::mmap(nullptr, page_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (shared == MAP_FAILED) return 2;
    ::close(fd);
    stats = static_cast<Stats*>(shared);
  }
  std::size_t pages = options.mb * 256;
  auto map = [](std::size_t bytes) {
    void* memory =
        ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) ::abort();
    return memory;
  };
  auto* memory = static_cast<std::uint64_t*>(map(pages * page_bytes));
  auto* versions = static_cast<std::uint32_t*>(map(pages * sizeof(std::uint32_t)));
  for (std::size_t page = 0; page < pages; ++page) {
    fill(memory + page * page_words, page, 1);
    versions[page] = 1;
  }
  std::vector<std::thread> threads;
  std::size_t share = pages / options.threads;
  for (unsigned t = 0; t < options.threads; ++t)
    threads.emplace_back(work, memory, versions, t * share, share,
                         options.pages_per_ms / options.threads, options.seed + t);
  if (options.ready == "-") {
    if (::write(1, "ready\n", 6) != 6) return 2;
  } else if (!options.ready.empty()) {
    int fd = ::open(options.ready.c_str(), O_WRONLY | O_CLOEXEC);
    if (fd < 0 || ::write(fd, "r", 1) != 1) return 2;
    ::close(fd);
  }
  std::uint64_t steps = 0;
  if (options.churn) {
    Churn churn(options.scratch, options.seed);
    while (!stop && failure.empty()) churn.step();
    if (failure.empty()) churn.check_all();
    steps = churn.steps();
  } else {
    while (!stop) {
      timespec pause{0, 10'000'000};
      ::nanosleep(&pause, nullptr);
    }
  }
  stop = true;
  for (auto& thread : threads) thread.join();
  for (std::size_t page = 0; page < pages && failure.empty(); ++page)
    if (!check(memory + page * page_words, page, versions[page]))
      failure = "page " + std::to_string(page);
  bool to_stdout = options.result == "-";
  FILE* result = to_stdout ? stdout : std::fopen((options.result + ".new").c_str(), "w");
  if (!result) return 2;
  if (failure.empty())
    std::fprintf(result, "OK %llu %lld %llu\n",
                 static_cast<unsigned long long>(stats->writes.load()),
                 static_cast<long long>(stats->gap_max_ns.load() / 1000),
                 static_cast<unsigned long long>(steps));
  else
    std::fprintf(result, "FAIL %s\n", failure.c_str());
  std::fclose(result);
  if (!to_stdout) std::rename((options.result + ".new").c_str(), options.result.c_str());
  return failure.empty() ? 0 : 1;
}
