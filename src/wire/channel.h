// gRPC channels and servers with Baton's limits and timings. Nothing is encrypted yet.
#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/server_builder.h>

#include <cstddef>
#include <memory>
#include <string>

#include "base/result.h"

namespace baton::wire {

// Largest single message either side takes: a job's standard input (64 MiB) and some room.
constexpr int kMaxMessageBytes = 72 << 20;
// Largest standard input of a job.
constexpr std::size_t kMaxStdinBytes = std::size_t{64} << 20;
// What one part of a stream of bulk data carries at most.
constexpr std::size_t kChunkBytes = std::size_t{1} << 20;

constexpr const char* kDefaultClusterAddress = "127.0.0.1:7077";

// "/run/x.sock" and "unix:/run/x.sock" -> "unix:/run/x.sock"; "host:port" stays.
// InvalidArgument for anything else.
Result<std::string> parse_address(const std::string& address);
// True for a unix socket and for a loopback address.
bool is_local_address(const std::string& parsed_address);

// A channel with a connection of its own (never shared with another channel to the same address),
// so that bulk data on one does not delay heartbeats on another. Reconnects within 200 ms to 1 s.
Result<std::shared_ptr<grpc::Channel>> open_channel(const std::string& address);

// Message sizes and keep-alive that fit open_channel().
void configure(grpc::ServerBuilder& builder);

}  // namespace baton::wire
