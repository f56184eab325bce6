// A program that CRIU refuses to dump: holds one kernel object that it doesn't know, and counts.
//   refused io_uring | mqueue | userfaultfd
#include <fcntl.h>
#include <linux/io_uring.h>
#include <mqueue.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>

int main(int argc, char** argv) {
  const char* kind = argc > 1 ? argv[1] : "io_uring";
  long fd = -1;
  if (!strcmp(kind, "io_uring")) {
    io_uring_params params{};
    fd = syscall(SYS_io_uring_setup, 4, &params);
  } else if (!strcmp(kind, "mqueue")) {
    fd = mq_open("/baton-test", O_CREAT | O_RDWR, 0600, nullptr);
    mq_unlink("/baton-test");
  } else if (!strcmp(kind, "userfaultfd")) {
    fd = syscall(SYS_userfaultfd, O_CLOEXEC | 1 /* UFFD_USER_MODE_ONLY */);
  }
  if (fd < 0) {
    perror(kind);
    return 2;
  }
  for (unsigned i = 0;; i++) {
    printf("%u\n", i);
    fflush(stdout);
    usleep(50'000);
  }
}
