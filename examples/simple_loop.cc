// simple_loop [DELAY_SECONDS [COUNT]]: a thread prints the integers 0 to 99, one per DELAY.
//
// A program like any other: it knows nothing of checkpoints and is moved without noticing.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>

namespace {

// -1 unless all of `text` is a number that is not negative.
double parse(const char* text) {
  char* end = nullptr;
  const double value = std::strtod(text, &end);
  return *text != '\0' && *end == '\0' && value >= 0 ? value : -1;
}

}  // namespace

int main(int argc, char** argv) {
  const double delay_s = argc > 1 ? parse(argv[1]) : 1.0;
  const double count = argc > 2 ? parse(argv[2]) : 100;
  if (argc > 3 || delay_s < 0 || count < 0) {
    std::fprintf(stderr, "usage: simple_loop [DELAY_SECONDS [COUNT]]\n");
    return 2;
  }
  std::thread printer([&] {
    for (int value = 0; value < count; ++value) {
      std::printf("%d\n", value);
      std::fflush(stdout);
      std::this_thread::sleep_for(std::chrono::duration<double>(delay_s));
    }
  });
  printer.join();
  return 0;
}
