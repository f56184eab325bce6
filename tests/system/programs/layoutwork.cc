// Changes the layout of its memory before it looks at any of it, for restores that bring pages
// lazily: what is moved must be found, what is dropped must read as zero, and a child has what its
// parent had.
//
// Fills its memory, prints "ready" and waits for SIGUSR1. Then it does all that, and prints "OK" or
// "FAIL <what>"; exit code 0 or 1.
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

namespace {

constexpr std::size_t page = 4096;
constexpr std::size_t pages = 2048;

std::uint64_t* map() {
  void* memory =
      ::mmap(nullptr, pages * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) std::exit(2);
  return static_cast<std::uint64_t*>(memory);
}

std::uint64_t mark(std::uint64_t region, std::size_t number) { return region << 32 | (number + 1); }

void fill(std::uint64_t* memory, std::uint64_t region) {
  for (std::size_t i = 0; i < pages; ++i)
    for (std::size_t word = 0; word < page / 8; ++word)
      memory[i * page / 8 + word] = mark(region, i);
}

bool holds(const std::uint64_t* memory, std::uint64_t region, std::size_t first, std::size_t last) {
  for (std::size_t i = first; i < last; ++i)
    for (std::size_t word = 0; word < page / 8; ++word)
      if (memory[(i - first) * page / 8 + word] != mark(region, i)) return false;
  return true;
}

bool is_zero(const std::uint64_t* memory, std::size_t count) {
  for (std::size_t word = 0; word < count * page / 8; ++word)
    if (memory[word] != 0) return false;
  return true;
}

[[noreturn]] void fail(const char* what) {
  std::printf("FAIL %s\n", what);
  std::fflush(stdout);
  std::_Exit(1);
}

}  // namespace

int main() {
  sigset_t wanted;
  sigemptyset(&wanted);
  sigaddset(&wanted, SIGUSR1);
  sigprocmask(SIG_BLOCK, &wanted, nullptr);
  std::uint64_t* regions[6];
  for (std::uint64_t i = 0; i < 6; ++i) fill(regions[i] = map(), i);
  std::printf("ready\n");
  std::fflush(stdout);
  int number = 0;
  sigwait(&wanted, &number);

  constexpr std::size_t half = pages / 2;
  constexpr std::size_t half_words = half * page / 8;
  // Part of a mapping moves away, and on top of another one.
  void* moved = ::mremap(regions[0], half * page, half * page, MREMAP_MAYMOVE | MREMAP_FIXED,
                         regions[1] + half_words);
  if (moved == MAP_FAILED) fail("mremap");
  if (::madvise(regions[2], half * page, MADV_DONTNEED) != 0) fail("madvise");
  if (::munmap(regions[3], half * page) != 0) fail("munmap");
  if (::mmap(regions[3], half * page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
      MAP_FAILED)
    fail("mmap");
  if (::mprotect(regions[4] + half_words / 2, page, PROT_READ) != 0) fail("mprotect");
  const pid_t child = ::fork();
  if (child == 0) {
    // Writes of its own must not be seen by the parent, nor the parent's here.
    regions[5][0] = 1;
    const bool good = holds(regions[5] + page / 8, 5, 1, pages) && is_zero(regions[2], half);
    std::_Exit(good ? 0 : 1);
  }
  const bool own = holds(regions[5], 5, 0, pages);
  int status = -1;
  if (child < 0 || ::waitpid(child, &status, 0) != child) fail("fork");
  if (!own) fail("memory after a fork");
  if (status != 0) fail("the child's memory");
  if (!holds(regions[1] + half_words, 0, 0, half)) fail("what was moved");
  if (!holds(regions[0] + half_words, 0, half, pages)) fail("what was left when half was moved");
  if (!holds(regions[1], 1, 0, half)) fail("what lies before what was moved");
  if (!is_zero(regions[2], half)) fail("what was dropped");
  if (!holds(regions[2] + half_words, 2, half, pages)) fail("what lies behind what was dropped");
  if (!is_zero(regions[3], half)) fail("what was unmapped and mapped anew");
  if (!holds(regions[3] + half_words, 3, half, pages)) fail("what lies behind what was unmapped");
  if (!holds(regions[4], 4, 0, pages)) fail("what was protected");
  std::printf("OK\n");
  return 0;
}
