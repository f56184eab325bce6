// Speaks to a sandbox's pid 1 through control.sock; see init/protocol.h. Thread-safe: each request
// has a connection of its own.
#pragma once

#include <chrono>
#include <filesystem>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "init/protocol.h"
#include "sys/process.h"

namespace baton::agent {

// Pid 1 never waits for anything itself, so it is in distress when it takes longer.
constexpr std::chrono::milliseconds kAnswerTime{5'000};
// Until a program from a slow disk or network is loaded.
constexpr std::chrono::milliseconds kStartTime{120'000};

struct InitReply {
  std::int64_t values[3] = {};
  std::vector<Fd> fds;
};

class InitConnection {
 public:
  // NotFound: nobody listens there; pid 1 is gone.
  static Result<InitConnection> open(const std::filesystem::path& directory,
                                     std::chrono::milliseconds answer_time = kAnswerTime);

  // Waits for the answer. Unavailable: pid 1 ended before it gave one. TimedOut: it is stopped.
  Result<InitReply> ask(const init::Request& request, int fd = -1);
  // Does not wait: for requests that pid 1 does not survive.
  Status tell(const init::Request& request);
  // Pid 1 as this process sees it.
  Result<pid_t> peer_pid() const;

 private:
  explicit InitConnection(Fd socket) : socket_(std::move(socket)) {}
  Fd socket_;
};

Result<InitReply> ask_init(const std::filesystem::path& directory, const init::Request& request,
                           int fd = -1, std::chrono::milliseconds answer_time = kAnswerTime);

// A socket bound to control.sock in that directory, for pid 1 to listen on.
Result<Fd> bind_control_socket(const std::filesystem::path& directory);

}  // namespace baton::agent
