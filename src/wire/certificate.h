// Keys and certificates of a cluster: its authority, which only the controller has, and what the
// authority signs. ECDSA on P-256, X.509 version 3 (RFC 5280), everything as PEM.
//
// Who somebody is stands in one subject alternative name, a URI: "baton:<kind>:<name>:<number>".
// The number is that of the certificate in the controller's registry, which knows whether it still
// counts; nothing else in a certificate decides anything.
//
// Pure functions over OpenSSL (libcrypto). Errors say what OpenSSL said.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace baton::wire {

enum class PeerKind { Node, User, Controller };

struct PeerName {
  PeerKind kind = PeerKind::User;
  std::string name;
  std::uint64_t number = 0;

  bool operator==(const PeerName&) const = default;
};

std::string to_uri(const PeerName& name);
// Nothing for a URI that is not one of ours, letter by letter.
std::optional<PeerName> parse_peer_uri(std::string_view uri);

// Every controller's certificate has it as its DNS name: clients trust one cluster's authority and
// nobody else, so where the controller is reached plays no part.
constexpr const char* kControllerHost = "controller.baton";

struct Authority {
  std::string key;
  std::string certificate;
};

Result<std::string> make_key();
Result<Authority> make_authority(const std::string& cluster, std::chrono::seconds valid_for);
// A request (PKCS#10) that proves possession of the key. Its subject counts for nothing.
Result<std::string> make_request(const std::string& key);
// Signs the request's key, and nothing else of it, as `name`. InvalidArgument: the request is no
// request, its signature is wrong, its key is none of ours (P-256), or the name has other
// characters than [a-zA-Z0-9_.-].
Result<std::string> sign(const Authority& authority, const std::string& request,
                         const PeerName& name, std::chrono::seconds valid_for);

// Certificates say that they are valid from 20 years before they were made, so that a clock that is
// behind, or is set back, shuts nobody out: whether one counts is what the registry knows.
constexpr long kBackdatedSeconds = 20L * 365 * 86'400;

struct CertificateFacts {
  std::optional<PeerName> name;
  std::int64_t made_s = 0;  // since the epoch
  std::int64_t not_after_s = 0;
};
// Damaged: it is no certificate.
Result<CertificateFacts> read_certificate(const std::string& certificate);

// A certificate without PEM's line breaks and dashes: its DER in base64url, and back. Damaged: it
// is none.
Result<std::string> pem_to_base64url(const std::string& certificate);
Result<std::string> base64url_to_pem(std::string_view text);

// SHA-256 in hex; for what is compared or kept instead of a secret.
std::string sha256(std::string_view data);
// 256 random bits from the kernel as 43 letters that need no quoting (base64url, RFC 4648).
Result<std::string> make_secret();

}  // namespace baton::wire
