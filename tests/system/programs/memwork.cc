// A program whose memory carries an invariant across every page, for proving that a checkpoint
// missed none of them, and for measuring how long it stands still.
//
//   memwork --mb N --threads N --processes N --pages-per-ms N --spin 0|1|none --churn N --seed N
//           --scratch FILE --result FILE --ready FILE --stats FILE
//
// Each thread owns a share of its process's memory; it picks a page at random, checks all of it,
// fills it from (page, version) and notes the version in a table. --churn N: N threads more map,
// unmap, remap, drop, protect and fork, and check what they expect to read after each. --processes
// N: so many with --mb each, which pass numbers through one pipe and count in one shm segment.
// --spin 0: threads sleep until their next write, but for the very first one; none: that one, too.
//
// Writes to the ready file (a fifo) when its memory is filled. "-" as a file is standard output.
// SIGUSR1: the threads stop, every byte is checked, and FILE gets one line:
//   OK <page writes> <largest gap between two iterations of a thread, us> <churn steps>
// or "FAIL <what>"; exit code 0 or 1.
//
// The stats file is a page shared with whoever measures: see Stats. A gap is the time between two
// iterations of a thread, or by which one that slept came too late.
#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/shm.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "memwork_churn.h"
#include "memwork_pages.h"

namespace {

using namespace memwork;

struct Options {
  std::size_t mb = 64;
  unsigned threads = 2;
  unsigned processes = 1;
  double pages_per_ms = 3;  // of each process
  bool spin = true;
  bool first_spins = true;
  unsigned churn = 0;
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
  std::atomic<std::uint64_t> resets{0};      // counted up by the other side to forget the gap
  std::atomic<std::uint64_t> iterations{0};  // of threads that spin: what the program got done
};
Stats own_stats;
Stats* stats = &own_stats;

struct Share {
  std::uint64_t* memory;
  std::uint32_t* versions;
  std::size_t first;
  std::size_t count;
};

bool renew_page(const Share& share, Random& random) {
  std::size_t page = share.first + random.below(share.count);
  std::uint64_t* content = share.memory + page * page_words;
  if (!check(content, page, share.versions[page])) return failed("page");
  fill(content, page, share.versions[page] + 1u);
  share.versions[page]++;
  stats->writes.fetch_add(1, std::memory_order_relaxed);
  return true;
}

class GapMeter {
 public:
  // An iteration ended `now`; `since`: when the one before did, or when this one was due.
  void iteration(std::int64_t now, std::int64_t since) {
    if (stats->resets != resets_) {
      resets_ = stats->resets;
      gap_ = 0;
    } else if (now - since > gap_) {
      gap_ = now - since;
      std::int64_t known = stats->gap_max_ns;
      while (known < gap_ && !stats->gap_max_ns.compare_exchange_weak(known, gap_)) {
      }
    }
  }

 private:
  std::uint64_t resets_ = 0;
  std::int64_t gap_ = 0;
};

void sleep_until(std::int64_t due) {
  for (std::int64_t now = now_ns(); now < due && !stop; now = now_ns()) {
    timespec pause{0, std::min<std::int64_t>(due - now, 20'000'000)};
    ::nanosleep(&pause, nullptr);
  }
}

void work(const Share& share, double pages_per_ms, bool spin, std::uint64_t seed) {
  Random random{seed * 7919 + 13};
  GapMeter meter;
  std::int64_t last = now_ns(), due = last;
  while (!stop) {
    if (!renew_page(share, random)) stop = true;
    std::int64_t now = now_ns();
    meter.iteration(now, last);
    last = now;
    due = std::max(due + static_cast<std::int64_t>(1e6 / pages_per_ms), now - 5'000'000);
    if (!spin) {
      sleep_until(due);
      last = std::max(last, due);
      continue;
    }
    // Spinning rather than sleeping: a gap is then a pause and not a late wake-up.
    std::uint64_t iterations = 0;
    for (; last < due && !stop; last = now, ++iterations) {
      now = now_ns();
      meter.iteration(now, last);
    }
    stats->iterations.fetch_add(iterations, std::memory_order_relaxed);
  }
}

// What several processes share: one number travels through the pipe and is counted in the segment.
struct Ring {
  int pipe[2] = {-1, -1};
  std::atomic<std::uint64_t>* count = nullptr;
  static constexpr std::size_t segment_bytes = 8 << 20;

  void make() {
    int id = ::shmget(IPC_PRIVATE, segment_bytes, IPC_CREAT | 0600);
    void* segment = id < 0 ? MAP_FAILED : ::shmat(id, nullptr, 0);
    if (segment == MAP_FAILED || ::pipe(pipe) != 0) ::abort();
    ::shmctl(id, IPC_RMID, nullptr);
    std::memset(segment, 0, segment_bytes);
    count = static_cast<std::atomic<std::uint64_t>*>(segment);
    std::uint64_t first = 0;
    if (::write(pipe[1], &first, sizeof first) != sizeof first) ::abort();
  }
  // Passes the number on if it is here now; false if it is not what the segment says.
  bool turn() const {
    pollfd waiting{pipe[0], POLLIN, 0};
    ::poll(&waiting, 1, 10);
    std::uint64_t number = 0;
    if (::read(pipe[0], &number, sizeof number) != sizeof number) return errno == EAGAIN;
    if (number != count[0]) return failed("number in the pipe");
    std::uint64_t next = ++count[0];
    // A page of the segment for each, so that all of it changes in time.
    count[next * page_words % (segment_bytes / sizeof next - page_words) + 1] = next;
    if (::write(pipe[1], &next, sizeof next) != sizeof next) return failed("pipe");
    timespec pause{0, 1'000'000};
    ::nanosleep(&pause, nullptr);
    return true;
  }
};

Options parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i + 1 < argc; i += 2) {
    std::string name = argv[i], value = argv[i + 1];
    if (name == "--mb") options.mb = std::stoul(value);
    if (name == "--threads") options.threads = static_cast<unsigned>(std::stoul(value));
    if (name == "--processes") options.processes = static_cast<unsigned>(std::stoul(value));
    if (name == "--pages-per-ms") options.pages_per_ms = std::stod(value);
    if (name == "--spin") options.spin = value == "1";
    if (name == "--spin") options.first_spins = value != "none";
    if (name == "--churn") options.churn = static_cast<unsigned>(std::stoul(value));
    if (name == "--seed") options.seed = std::stoull(value);
    if (name == "--scratch") options.scratch = value;
    if (name == "--result") options.result = value;
    if (name == "--ready") options.ready = value;
    if (name == "--stats") options.stats = value;
  }
  return options;
}

void* map(std::size_t bytes, int flags, int fd) {
  void* memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, flags, fd, 0);
  if (memory == MAP_FAILED) ::abort();
  return memory;
}

bool say_ready(const std::string& where) {
  if (where == "-") return ::write(1, "ready\n", 6) == 6;
  if (where.empty()) return true;
  int fd = ::open(where.c_str(), O_WRONLY | O_CLOEXEC);
  bool said = fd >= 0 && ::write(fd, "r", 1) == 1;
  ::close(fd);
  return said;
}

bool report(const Options& options, std::uint64_t steps) {
  const char* what = failure;
  bool to_stdout = options.result == "-";
  FILE* result = to_stdout ? stdout : std::fopen((options.result + ".new").c_str(), "w");
  if (!result) return false;
  if (what)
    std::fprintf(result, "FAIL %s\n", what);
  else
    std::fprintf(result, "OK %llu %lld %llu\n",
                 static_cast<unsigned long long>(stats->writes.load()),
                 static_cast<long long>(stats->gap_max_ns.load() / 1000),
                 static_cast<unsigned long long>(steps));
  std::fclose(result);
  if (!to_stdout) std::rename((options.result + ".new").c_str(), options.result.c_str());
  return !what;
}

// One process's life, until SIGUSR1. Returns its churn steps.
std::uint64_t live(const Options& options, unsigned process, const Ring& ring,
                   const std::function<bool()>& when_filled) {
  std::size_t pages = options.mb * 256;
  auto* memory =
      static_cast<std::uint64_t*>(map(pages * page_bytes, MAP_PRIVATE | MAP_ANONYMOUS, -1));
  auto* versions = static_cast<std::uint32_t*>(
      map(pages * sizeof(std::uint32_t), MAP_PRIVATE | MAP_ANONYMOUS, -1));
  for (std::size_t page = 0; page < pages; ++page) {
    fill(memory + page * page_words, page, 1);
    versions[page] = 1;
  }
  std::vector<std::thread> threads;
  std::size_t share = pages / options.threads;
  for (unsigned t = 0; t < options.threads; ++t)
    threads.emplace_back(work, Share{memory, versions, t * share, share},
                         options.pages_per_ms / options.threads,
                         options.spin || (options.first_spins && process == 0 && t == 0),
                         options.seed + process * 100 + t);
  std::atomic<std::uint64_t> steps{0};
  for (unsigned c = 0; c < options.churn; ++c)
    threads.emplace_back([&, c] {
      Churn churn(options.scratch + std::to_string(c), options.seed + c);
      while (!stop && !failure) churn.step();
      if (!failure) churn.check_all();
      steps += churn.steps();
    });
  if (!when_filled()) failed("ready file");
  timespec pause{0, 10'000'000};
  while (!stop && !failure)
    if (!ring.count)
      ::nanosleep(&pause, nullptr);
    else if (!ring.turn())
      break;
  stop = true;
  for (auto& thread : threads) thread.join();
  for (std::size_t page = 0; page < pages && !failure; ++page)
    if (!check(memory + page * page_words, page, versions[page])) failed("page in the end");
  return steps;
}

}  // namespace

int main(int argc, char** argv) {
  Options options = parse(argc, argv);
  std::signal(SIGUSR1, [](int) { stop = true; });
  if (!options.stats.empty()) {
    int fd = ::open(options.stats.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || ::ftruncate(fd, page_bytes) != 0) return 2;
    stats = static_cast<Stats*>(map(page_bytes, MAP_SHARED, fd));
    ::close(fd);
  }
  Ring ring;
  std::vector<pid_t> children;
  int filled[2] = {-1, -1};
  if (options.processes > 1) {
    ring.make();
    if (::pipe(filled) != 0) return 2;
    ::fcntl(ring.pipe[0], F_SETFL, O_NONBLOCK);
  }
  for (unsigned p = 1; p < options.processes; ++p) {
    pid_t child = ::fork();
    if (child == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      live(options, p, ring, [&] {
        bool said = ::write(filled[1], "f", 1) == 1;
        return ::close(filled[0]) == 0 && ::close(filled[1]) == 0 && said;
      });
      ::_exit(failure ? 1 : 0);
    }
    children.push_back(child);
  }
  std::uint64_t steps = live(options, 0, ring, [&] {
    char byte;
    for (std::size_t i = 0; i < children.size(); ++i)
      if (::read(filled[0], &byte, 1) != 1) return false;
    ::close(filled[0]);
    ::close(filled[1]);
    return say_ready(options.ready);
  });
  for (pid_t child : children) ::kill(child, SIGUSR1);
  for (pid_t child : children) {
    int status = 0;
    while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    if (status != 0) failed("a process of the ring");
  }
  return report(options, steps) ? 0 : 1;
}
