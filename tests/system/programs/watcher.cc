// A program that is slow to read its inotify events. Prints "ready", and after each SIGUSR1, having
// made a file in a folder that it watches, "made". With a number of milliseconds as its argument it
// reads so long after that and prints "read" or "lost"; without, it never reads.
#include <poll.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <ctime>

namespace {

long now_ms() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000 + now.tv_nsec / 1'000'000;
}

void sleep_until(long end_ms) {
  while (now_ms() < end_ms) usleep(1000);
}

// A poll with a limit may return early when a checkpoint is taken.
bool has_event(int watcher) {
  for (int tries = 0; tries < 20; ++tries) {
    pollfd waiting{watcher, POLLIN, 0};
    if (poll(&waiting, 1, 50) == 1) return true;
  }
  return false;
}

}  // namespace

int main(int argc, char** argv) {
  const char* folder = "/tmp/watched";
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGUSR1);
  sigprocmask(SIG_BLOCK, &signals, nullptr);
  const int watcher = inotify_init1(0);
  if (mkdir(folder, 0700) != 0 || inotify_add_watch(watcher, folder, IN_CREATE) < 0) return 2;
  setvbuf(stdout, nullptr, _IOLBF, 0);
  puts("ready");
  int files = 0;
  for (int number = 0; sigwait(&signals, &number) == 0;) {
    char path[64];
    std::snprintf(path, sizeof path, "%s/%d", folder, files++);
    std::fclose(std::fopen(path, "w"));
    const long made_ms = now_ms();
    puts("made");
    if (argc < 2) continue;
    sleep_until(made_ms + atol(argv[1]));
    char buffer[4096];
    puts(has_event(watcher) && read(watcher, buffer, sizeof buffer) > 0 ? "read" : "lost");
  }
}
