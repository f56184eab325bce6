// What the CRIU probe checkpoints and restores: two threads, a listening and a connected inet
// socket. Prints numbers as long as every step of the second thread reaches the first one through
// the connection.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "init/modes.h"

namespace baton::init {
namespace {

constexpr useconds_t kPauseUs = 2000;

void* send_numbers(void* argument) {
  const int socket = *static_cast<int*>(argument);
  for (long number = 0; send(socket, &number, sizeof number, MSG_NOSIGNAL) == sizeof number;
       ++number)
    usleep(kPauseUs);
  return nullptr;
}

}  // namespace

int probe_target_main() {
  const int listener = socket(AF_INET, SOCK_STREAM, 0);
  const int client = socket(AF_INET, SOCK_STREAM, 0);
  // The probe kills the process and restores it at once: what is left of the first connection must
  // not keep its ports.
  const int yes = 1;
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  setsockopt(client, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  auto* const name = reinterpret_cast<sockaddr*>(&address);
  if (bind(listener, name, size) != 0 || listen(listener, 1) != 0 ||
      getsockname(listener, name, &size) != 0 || connect(client, name, size) != 0) {
    perror("loopback connection");
    return 1;
  }
  int server = accept(listener, nullptr, nullptr);
  pthread_t sender;
  if (server < 0 || pthread_create(&sender, nullptr, send_numbers, &server) != 0) return 1;
  long received = 0;
  for (long expected = 0;; ++expected) {
    if (recv(client, &received, sizeof received, MSG_WAITALL) != sizeof received ||
        received != expected)
      break;
    printf("%ld\n", received);
    fflush(stdout);
  }
  printf("wrong number\n");
  return 1;
}

}  // namespace baton::init
