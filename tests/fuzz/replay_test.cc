// The decoders under the fuzz targets' seeds and some thousand changes of each, the same with each
// run. Random input for as long as wanted, and guided by what it reaches: make fuzz.
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "sys/file.h"

// BATON_FUZZ_TARGETS is X(name) for each; the build names their functions.
#define X(name) extern "C" int fuzz_##name(const std::uint8_t* data, std::size_t size);
BATON_FUZZ_TARGETS
#undef X

namespace baton {
namespace {

namespace fs = std::filesystem;

struct Target {
  const char* name;
  int (*run)(const std::uint8_t*, std::size_t);
};
constexpr Target targets[] = {
#define X(name) {#name, fuzz_##name},
    BATON_FUZZ_TARGETS
#undef X
};

// Which input it was, for whoever has to find out why the program died.
char under_way[512];

void say_and_die(int number) {
  (void)!::write(STDERR_FILENO, under_way, std::strlen(under_way));
  std::signal(number, SIG_DFL);
  std::raise(number);
}

std::string mutate(std::string bytes, std::mt19937_64& random) {
  auto below = [&](std::size_t end) { return static_cast<std::size_t>(random() % (end + !end)); };
  constexpr std::uint64_t figures[] = {0,          1,          0x7f,       0xff,
                                       0xffff,     0x7fffffff, 0xffffffff, 0x100000000,
                                       1ull << 57, 1ull << 62, ~0ull >> 1, ~0ull};
  for (std::size_t change = 0, changes = 1 + below(4); change < changes; ++change) {
    const std::size_t at = below(bytes.size()),
                      count = below(std::min<std::size_t>(64, bytes.size() - at));
    switch (below(6)) {
      case 0:
        if (!bytes.empty()) bytes[at] = static_cast<char>(bytes[at] ^ 1 << below(8));
        break;
      case 1:
        if (!bytes.empty()) bytes[at] = static_cast<char>(random());
        break;
      case 2: {
        const std::uint64_t figure = figures[below(std::size(figures))];
        const std::size_t size =
            std::min<std::size_t>(std::size_t{1} << below(4), bytes.size() - at);
        std::memcpy(bytes.data() + at, &figure, size);
        break;
      }
      case 3: bytes.erase(at, count); break;
      case 4: bytes.insert(below(bytes.size()), bytes.substr(at, count)); break;
      case 5:
        if (below(4) == 0) bytes.resize(at);
        break;
    }
  }
  return bytes;
}

double cpu_seconds() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

void run(const Target& target, const std::string& bytes) {
  const double begin = cpu_seconds();
  target.run(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
  EXPECT_LT(cpu_seconds() - begin, 1.0) << under_way;
}

class FuzzReplay : public testing::TestWithParam<Target> {
 protected:
  static void SetUpTestSuite() {
    if (::access("/dev/shm", W_OK) == 0) ::setenv("TMPDIR", "/dev/shm", 1);  // no disk is tested
    for (int number : {SIGABRT, SIGSEGV, SIGBUS, SIGFPE}) std::signal(number, say_and_die);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    // No input is large: who takes much memory believes a figure in it.
    rlimit limit{};
    ::getrlimit(RLIMIT_DATA, &limit);
    limit.rlim_cur = 512 << 20;
    ::setrlimit(RLIMIT_DATA, &limit);
#endif
  }
};

TEST_P(FuzzReplay, SeedsAndTheirNeighbours) {
  const Target& target = GetParam();
  std::vector<fs::path> seeds;
  for (const auto& entry : fs::directory_iterator(fs::path(BATON_FUZZ_SEEDS) / target.name))
    seeds.push_back(entry.path());
  std::ranges::sort(seeds);
  ASSERT_FALSE(seeds.empty());
  for (const fs::path& path : seeds) {
    auto seed = sys::read_file(path);
    ASSERT_TRUE(seed) << seed.error().message();
    std::snprintf(under_way, sizeof under_way, "seed %s\n", path.c_str());
    run(target, *seed);
    std::mt19937_64 random(seed->size());
    const std::size_t rounds = std::clamp<std::size_t>((512u << 10) / (seed->size() + 1), 16, 128);
    for (std::size_t round = 0; round < rounds; ++round) {
      std::snprintf(under_way, sizeof under_way, "change %zu of seed %s\n", round, path.c_str());
      run(target, mutate(*seed, random));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Decoders, FuzzReplay, testing::ValuesIn(targets),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace baton
