// What a stranger hands in or over: join tokens, requests for certificates, certificates.
#include <chrono>

#include "fuzz.h"
#include "wire/identity.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace baton;
  const std::string text(fuzz::as_text(data, size));
  if (auto name = wire::parse_peer_uri(text)) fuzz::require(wire::to_uri(*name) == text);
  if (auto token = wire::parse_join_token(text)) {
    auto line = wire::to_text(*token);
    fuzz::require(line && wire::parse_join_token(*line).has_value());
  }
  (void)wire::read_certificate(text);
  static const auto authority = wire::make_authority("fuzz", std::chrono::hours(1));
  fuzz::require(authority.has_value());
  (void)wire::sign(*authority, text, {wire::PeerKind::Node, "node", 1}, std::chrono::hours(1));
  return 0;
}
