// A program that changes, when told, what a checkpoint may have learned of it before. A line each:
//   SIGUSR2  gives advice on all of a mapping of 64 MiB (MADV_DONTFORK)
//   SIGHUP   makes a System V semaphore and sets it to 7
//   SIGUSR1  tells the semaphore's value, or "none", and ends
// Prints "ready" first.
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/sem.h>

#include <csignal>
#include <cstdio>
#include <cstring>
#include <initializer_list>

int main() {
  constexpr std::size_t bytes = 64 << 20;
  constexpr key_t key = 0x4261;
  sigset_t signals;
  sigemptyset(&signals);
  for (int number : {SIGUSR1, SIGUSR2, SIGHUP}) sigaddset(&signals, number);
  sigprocmask(SIG_BLOCK, &signals, nullptr);
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return 2;
  memset(memory, 1, bytes);
  setvbuf(stdout, nullptr, _IOLBF, 0);
  puts("ready");
  for (int number = 0; sigwait(&signals, &number) == 0;) {
    if (number == SIGUSR2) {
      puts(madvise(memory, bytes, MADV_DONTFORK) == 0 ? "advised" : "failed");
    } else if (number == SIGHUP) {
      const int set = semget(key, 1, IPC_CREAT | 0600);
      puts(set >= 0 && semctl(set, 0, SETVAL, 7) == 0 ? "semaphore" : "failed");
    } else {
      const int set = semget(key, 1, 0);
      if (set < 0)
        puts("none");
      else
        printf("value %d\n", semctl(set, 0, GETVAL));
      return 0;
    }
  }
}
