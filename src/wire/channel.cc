#include "wire/channel.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>

#include <charconv>

namespace baton::wire {
namespace {

constexpr int kKeepAliveMs = 5'000;
constexpr int kKeepAliveTimeoutMs = 5'000;
constexpr std::size_t kMaxUnixPath = 107;  // sockaddr_un

Status check_port(const std::string& address, std::string_view port) {
  unsigned value = 0;
  auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), value);
  if (error != std::errc() || end != port.data() + port.size() || value > 65'535)
    return fail(ErrorCode::InvalidArgument,
                fmt::format("address \"{}\": \"{}\" is not a port number", address, port));
  return {};
}

}  // namespace

Result<std::string> parse_address(const std::string& address) {
  std::string path;
  if (address.starts_with("unix:")) path = address.substr(5);
  if (address.starts_with("/")) path = address;
  if (!path.empty()) {
    if (path.size() > kMaxUnixPath)
      return fail(ErrorCode::InvalidArgument,
                  fmt::format("socket path {} is longer than {} bytes", path, kMaxUnixPath));
    return "unix:" + path;
  }
  auto colon = address.rfind(':');
  if (colon == std::string::npos || colon == 0)
    return fail(
        ErrorCode::InvalidArgument,
        fmt::format("address \"{}\" is neither HOST:PORT nor the path of a socket", address));
  BATON_CHECK(check_port(address, std::string_view(address).substr(colon + 1)));
  return address;
}

bool is_local_address(const std::string& parsed_address) {
  return parsed_address.starts_with("unix:") || parsed_address.starts_with("127.") ||
         parsed_address.starts_with("localhost:") || parsed_address.starts_with("[::1]:");
}

Result<std::shared_ptr<grpc::Channel>> open_channel(const std::string& address) {
  BATON_TRY(std::string target, parse_address(address));
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
  arguments.SetMaxSendMessageSize(kMaxMessageBytes);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 200);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 200);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1'000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepAliveMs);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepAliveTimeoutMs);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  // A unix socket's path is no host name; without this gRPC sends it percent-encoded as one.
  if (target.starts_with("unix:")) arguments.SetString(GRPC_ARG_DEFAULT_AUTHORITY, "localhost");
  return grpc::CreateCustomChannel(target, grpc::InsecureChannelCredentials(), arguments);
}

void configure(grpc::ServerBuilder& builder) {
  builder.SetMaxReceiveMessageSize(kMaxMessageBytes);
  builder.SetMaxSendMessageSize(kMaxMessageBytes);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepAliveMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepAliveTimeoutMs);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 1'000);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PING_STRIKES, 0);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
}

}  // namespace baton::wire
