// Writes to one large file in one way, all the time, and knows at each moment what must be in it.
//
//   filework HOW FILE MIB [MICROSECONDS]
//
// prints 0, 1, 2 … one per line, each after it has looked at the whole file (default: every 500
// us). What is wrong prints "FAIL: …" and exits 1. SIGTERM ends it with "END" and 0. HOW:
//
//   rewrite   one long pwrite over all of it
//   mapped    stores through a shared mapping whose descriptor is closed; maps it anew at times
//   truncate  cut to nothing and written to the same size
//   replace   another file is renamed over it
//   links     written by one hard link, read by another
//   sparse    blocks come and go in a file of holes
//   idle      it is written once, and kept open for writing

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace {

constexpr std::size_t block = 4096;
volatile std::sig_atomic_t stopping = 0;
std::string path;
std::size_t size;

#define REQUIRE(condition)                                                          \
  do {                                                                              \
    if (!(condition)) {                                                             \
      std::printf("FAIL: line %d: %s (errno %d %s)\n", __LINE__, #condition, errno, \
                  std::strerror(errno));                                            \
      std::fflush(stdout);                                                          \
      std::_Exit(1);                                                                \
    }                                                                               \
  } while (false)

using Words = std::vector<std::uint64_t>;

// Different in each block and at each tick.
void fill(Words& words, std::uint64_t tick) {
  for (std::size_t i = 0; i < words.size(); ++i)
    words[i] = (i / 512 + 1) * 0x9e3779b97f4a7c15u ^ tick;
}

int open_file(const std::string& name, int flags) {
  int file = ::open(name.c_str(), flags | O_CLOEXEC, 0600);
  REQUIRE(file >= 0);
  return file;
}

void write_all(int file, const Words& words) {
  const char* data = reinterpret_cast<const char*>(words.data());
  for (std::size_t at = 0; at < size;) {
    ssize_t count = ::pwrite(file, data + at, size - at, static_cast<off_t>(at));
    REQUIRE(count > 0);
    at += static_cast<std::size_t>(count);
  }
}

void expect(const std::string& name, const Words& words) {
  static Words read;
  read.assign(words.size(), ~0ull);
  int file = open_file(name, O_RDONLY);
  char* data = reinterpret_cast<char*>(read.data());
  for (std::size_t at = 0; at < size;) {
    ssize_t count = ::pread(file, data + at, size - at, static_cast<off_t>(at));
    REQUIRE(count > 0);
    at += static_cast<std::size_t>(count);
  }
  struct stat info {};
  REQUIRE(::fstat(file, &info) == 0 && static_cast<std::size_t>(info.st_size) == size);
  ::close(file);
  REQUIRE(std::memcmp(read.data(), words.data(), size) == 0);
}

// What is done at each tick, before the file is looked at.
using Step = std::function<void(std::uint64_t tick, Words& words)>;

Step rewrite() {
  int file = open_file(path, O_RDWR | O_CREAT | O_TRUNC);
  return [=](std::uint64_t tick, Words& words) {
    fill(words, tick);
    write_all(file, words);
  };
}

std::uint64_t* map_file() {
  int file = open_file(path, O_RDWR | O_CREAT);
  REQUIRE(::ftruncate(file, static_cast<off_t>(size)) == 0);
  void* data = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  REQUIRE(data != MAP_FAILED);
  ::close(file);
  return static_cast<std::uint64_t*>(data);
}

Step mapped() {
  std::uint64_t* data = map_file();
  return [=](std::uint64_t tick, Words& words) mutable {
    for (std::size_t i = tick % 7; i < words.size(); i += 7 * 512 + 1)
      words[i] = data[i] = tick + i;
    if (tick % 16 != 15) return;
    REQUIRE(::munmap(data, size) == 0);
    data = map_file();
  };
}

Step truncate() {
  return [](std::uint64_t tick, Words& words) {
    fill(words, tick);
    int file = open_file(path, O_RDWR | O_CREAT | O_TRUNC);
    write_all(file, words);
    ::close(file);
  };
}

Step replace() {
  return [](std::uint64_t tick, Words& words) {
    fill(words, tick);
    int file = open_file(path + ".new", O_RDWR | O_CREAT | O_TRUNC);
    write_all(file, words);
    ::close(file);
    REQUIRE(::rename((path + ".new").c_str(), path.c_str()) == 0);
  };
}

Step links() {
  ::close(open_file(path, O_RDWR | O_CREAT | O_TRUNC));
  REQUIRE(::link(path.c_str(), (path + ".link").c_str()) == 0);
  return [](std::uint64_t tick, Words& words) {
    fill(words, tick);
    int file = open_file(path + ".link", O_RDWR);
    write_all(file, words);
    ::close(file);
  };
}

Step sparse() {
  int file = open_file(path, O_RDWR | O_CREAT | O_TRUNC);
  REQUIRE(::ftruncate(file, static_cast<off_t>(size)) == 0);
  return [=](std::uint64_t tick, Words& words) {
    const std::size_t blocks = size / block;
    const std::size_t fresh = tick * 37 % blocks, gone = (tick * 37 + blocks / 2) % blocks;
    std::uint64_t* data = &words[fresh * 512];
    for (std::size_t i = 0; i < 512; ++i) data[i] = tick + 1;
    REQUIRE(::pwrite(file, data, block, static_cast<off_t>(fresh * block)) == block);
    std::memset(&words[gone * 512], 0, block);
    REQUIRE(::fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                        static_cast<off_t>(gone * block), block) == 0);
  };
}

Step idle() {
  int file = open_file(path, O_RDWR | O_CREAT | O_TRUNC);
  return [=](std::uint64_t tick, Words& words) {
    if (tick > 0) return;
    fill(words, 1);
    write_all(file, words);
  };
}

}  // namespace

int main(int argc, char** argv) {
  const std::map<std::string, Step (*)()> ways = {
      {"rewrite", rewrite}, {"mapped", mapped}, {"truncate", truncate}, {"replace", replace},
      {"links", links},     {"sparse", sparse}, {"idle", idle}};
  auto chosen = ways.find(argc >= 4 ? argv[1] : "");
  if (chosen == ways.end()) {
    std::fprintf(stderr, "usage: filework HOW FILE MIB [MICROSECONDS]\n");
    return 2;
  }
  path = argv[2];
  size = static_cast<std::size_t>(std::atoi(argv[3])) << 20;
  const auto pause_us = static_cast<useconds_t>(argc > 4 ? std::atoi(argv[4]) : 500);
  struct sigaction action {};
  action.sa_handler = [](int) { stopping = 1; };
  action.sa_flags = SA_RESTART;
  ::sigaction(SIGTERM, &action, nullptr);
  Words words(size / sizeof(std::uint64_t));
  Step step = chosen->second();
  for (std::uint64_t tick = 0; !stopping; ++tick) {
    step(tick, words);
    expect(path, words);
    std::printf("%llu\n", static_cast<unsigned long long>(tick));
    std::fflush(stdout);
    ::usleep(pause_us);
  }
  std::puts("END");
  return 0;
}
