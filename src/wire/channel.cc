#include "wire/channel.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/security/tls_certificate_provider.h>
#include <grpcpp/security/tls_credentials_options.h>

#include <charconv>
#include <cstdlib>

namespace baton::wire {
namespace {

namespace tls = grpc::experimental;

// How soon a renewed certificate is used for new connections.
constexpr unsigned kCertificateRefreshSeconds = 10;
constexpr int kKeepAliveMs = 5'000;
constexpr int kKeepAliveTimeoutMs = 5'000;
// Of an attempt to connect, up to the controller's first word. When a thousand agents connect at
// once, a busy machine takes seconds for their handshakes; if each gave up before that and began
// anew, none would ever come to its end. (What a network loses of the first packets the kernel
// sends again after a second.)
constexpr int kConnectMs = 10'000;
// With wait_apart(). A connection is made, and a ping answered, in three such steps or four, which
// must be well within kConnectMs and kKeepAliveTimeoutMs.
constexpr const char* kLookAfterChannelsMs = "50";
constexpr int kMaxCallsOfAConnection = 1'000;  // further ones wait at the client
constexpr std::size_t kMaxUnixPath = 107;      // sockaddr_un
static_assert(kReadAheadBytes >= kChunkBytes);

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

namespace {

// TLS 1.3 alone: gRPC 1.51 has no setting for it, but takes the cipher suites of TLS 1.2 and below
// from here. The one named wants a key that both sides have agreed on before, and there is none, so
// that no handshake below 1.3 comes to an end. Read by gRPC when it makes its first context.
void allow_tls13_alone() {
  static const bool done = [] {
    ::setenv("GRPC_SSL_CIPHER_SUITES", "PSK-AES256-GCM-SHA384", 1);
    return true;
  }();
  (void)done;
}

std::shared_ptr<tls::FileWatcherCertificateProvider> watch(const Identity& identity) {
  return std::make_shared<tls::FileWatcherCertificateProvider>(
      identity.key_path(), identity.certificate_path(), identity.authority_path(),
      kCertificateRefreshSeconds);
}

grpc::ChannelArguments channel_arguments(const std::string& target) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
  arguments.SetMaxSendMessageSize(kMaxMessageBytes);
  arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, kReadAheadBytes);
  arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 200);
  // So it is called; it limits the attempt.
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, kConnectMs);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1'000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepAliveMs);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepAliveTimeoutMs);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  // A unix socket's path is no host name; without this gRPC sends it percent-encoded as one.
  if (target.starts_with("unix:")) arguments.SetString(GRPC_ARG_DEFAULT_AUTHORITY, "localhost");
  arguments.SetSslTargetNameOverride(kControllerHost);
  return arguments;
}

std::shared_ptr<grpc::ChannelCredentials> tls_credentials(
    tls::TlsChannelCredentialsOptions options) {
  allow_tls13_alone();
  options.watch_root_certs();
  return tls::TlsCredentials(options);
}

}  // namespace

Result<Dialer> Dialer::create(const std::string& address, const Security& security) {
  Dialer dialer;
  BATON_TRY(dialer.target_, parse_address(address));
  if (security.insecure && !is_local_address(dialer.target_))
    return fail(ErrorCode::InvalidArgument,
                fmt::format("--insecure is for loopback only, and {} is not", address));
  if (dialer.target_.starts_with("unix:") || security.insecure) {
    dialer.credentials_ = grpc::InsecureChannelCredentials();
    return dialer;
  }
  const Identity identity(security.identity);
  if (!identity.exists())
    return fail(ErrorCode::FailedPrecondition,
                fmt::format("{} takes certificates, and there is none in {}", address,
                            security.identity.string()));
  tls::TlsChannelCredentialsOptions options;
  options.set_certificate_provider(watch(identity));
  options.watch_identity_key_cert_pairs();
  dialer.credentials_ = tls_credentials(options);
  return dialer;
}

std::shared_ptr<grpc::Channel> Dialer::open() const {
  return grpc::CreateCustomChannel(target_, credentials_, channel_arguments(target_));
}

Result<std::shared_ptr<grpc::Channel>> open_channel(const std::string& address,
                                                    const Security& security) {
  BATON_TRY(const Dialer dialer, Dialer::create(address, security));
  return dialer.open();
}

Result<std::shared_ptr<grpc::Channel>> open_joining_channel(const std::string& address,
                                                            const std::string& authority) {
  BATON_TRY(const std::string target, parse_address(address));
  tls::TlsChannelCredentialsOptions options;
  options.set_certificate_provider(std::make_shared<tls::StaticDataCertificateProvider>(authority));
  return grpc::CreateCustomChannel(
      target,
      target.starts_with("unix:") ? grpc::InsecureChannelCredentials() : tls_credentials(options),
      channel_arguments(target));
}

std::shared_ptr<grpc::ServerCredentials> server_credentials(const Identity& identity) {
  allow_tls13_alone();
  tls::TlsServerCredentialsOptions options(watch(identity));
  options.watch_root_certs();
  options.watch_identity_key_cert_pairs();
  options.set_cert_request_type(GRPC_SSL_REQUEST_CLIENT_CERTIFICATE_AND_VERIFY);
  return tls::TlsServerCredentials(options);
}

// https://github.com/grpc/grpc/blob/v1.51.1/doc/environment_variables.md; the second one is in
// src/core/ext/filters/client_channel/backup_poller.cc and is of use with "poll" alone.
namespace {
constexpr const char* kStrategyVariable = "GRPC_POLL_STRATEGY";
constexpr const char* kIntervalVariable = "GRPC_CLIENT_CHANNEL_BACKUP_POLL_INTERVAL_MS";
}  // namespace

void wait_apart() {
  ::setenv(kStrategyVariable, "poll", 1);
  ::setenv(kIntervalVariable, kLookAfterChannelsMs, 1);
}

bool is_of_wait_apart(std::string_view variable) {
  const std::string_view name = variable.substr(0, variable.find('='));
  return name == kStrategyVariable || name == kIntervalVariable;
}

void configure(grpc::ServerBuilder& builder) {
  builder.SetMaxReceiveMessageSize(kMaxMessageBytes);
  builder.SetMaxSendMessageSize(kMaxMessageBytes);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, kReadAheadBytes);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepAliveMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepAliveTimeoutMs);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 1'000);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PING_STRIKES, 0);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, kMaxCallsOfAConnection);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
}

}  // namespace baton::wire
