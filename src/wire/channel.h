// gRPC channels and servers with Baton's limits and timings, and who may speak on them.
//
// On TCP it is TLS 1.3 with certificates of the cluster's own authority on both sides, except when
// somebody asks for nothing of the kind, on loopback. On a unix socket the kernel does it: who can
// open the socket is root on that machine.
#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/server_builder.h>

#include <cstddef>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"
#include "wire/identity.h"

namespace baton::wire {

// Largest single message either side takes: a job's standard input (64 MiB) and some room.
constexpr int kMaxMessageBytes = 72 << 20;
// Largest standard input of a job.
constexpr std::size_t kMaxStdinBytes = std::size_t{64} << 20;
// What one part of a stream of bulk data carries at most.
constexpr std::size_t kChunkBytes = std::size_t{1} << 20;
// What may come on a stream before somebody reads it, and so what a stream takes of the memory of
// whoever is slower than the other side: a disk, mostly. gRPC would go by the time an answer takes,
// which on a busy machine is long, and hold a hundred megabytes. Over a wire of 10 ms there and
// back it is 400 MB/s.
constexpr int kReadAheadBytes = 4 << 20;

constexpr const char* kDefaultClusterAddress = "127.0.0.1:7077";

// "/run/x.sock" and "unix:/run/x.sock" -> "unix:/run/x.sock"; "host:port" stays.
// InvalidArgument for anything else.
Result<std::string> parse_address(const std::string& address);
// True for a unix socket and for a loopback address.
bool is_local_address(const std::string& parsed_address);

struct Security {
  std::filesystem::path identity;  // see identity.h
  bool insecure = false;           // neither encrypted nor authenticated: loopback only
};

// Where a controller is and how to speak to it. Opening channels touches no disk.
class Dialer {
 public:
  // FailedPrecondition: TCP, and there is no identity; InvalidArgument: insecure, beyond loopback.
  static Result<Dialer> create(const std::string& address, const Security& security);

  // With a connection of its own (never shared with another channel to the same address), so that
  // bulk data on one does not delay heartbeats on another. Reconnects within 200 ms to 1 s.
  std::shared_ptr<grpc::Channel> open() const;

 private:
  std::string target_;
  std::shared_ptr<grpc::ChannelCredentials> credentials_;
};

// From now on each call of this process waits for its own connection. Otherwise one of gRPC's
// callers waits for all connections and wakes the others: a heartbeat then waits for whichever
// thread that happens to be to get a processor. What happens on a connection while no call waits
// (it is made, it is asked whether it lives) is looked after 20 times a second. For a process of
// few connections, before any thread exists.
void wait_apart();
// A line of the environment that it has set, which is of no concern to other programs.
bool is_of_wait_apart(std::string_view variable);

Result<std::shared_ptr<grpc::Channel>> open_channel(const std::string& address,
                                                    const Security& security = {});

// A channel to a controller whose authority is known and that does not know us yet.
Result<std::shared_ptr<grpc::Channel>> open_joining_channel(const std::string& address,
                                                            const std::string& authority);

// For a TCP port: shows `identity`, and asks who connects. Who shows no certificate may connect as
// nobody; one that the authority did not sign ends the connection.
std::shared_ptr<grpc::ServerCredentials> server_credentials(const Identity& identity);

// Message sizes and keep-alive that fit a Dialer's channels.
void configure(grpc::ServerBuilder& builder);

}  // namespace baton::wire
