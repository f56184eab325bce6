// Who this process is in a cluster: a folder with the cluster's authority, and a key and its
// certificate.
//
//   DIR/ca.pem    whom it trusts: the cluster's authority, and nobody else
//   DIR/key.pem   mode 0600; made here, never sent anywhere
//   DIR/cert.pem  signed by the authority; renewed in place
//
// cert.pem appears last, so that a folder that has it is complete.
#pragma once

#include <filesystem>
#include <string>

#include "base/result.h"
#include "wire/certificate.h"

namespace baton::wire {

class Identity {
 public:
  explicit Identity(std::filesystem::path directory) : directory_(std::move(directory)) {}

  const std::filesystem::path& directory() const { return directory_; }
  std::filesystem::path authority_path() const { return directory_ / "ca.pem"; }
  std::filesystem::path key_path() const { return directory_ / "key.pem"; }
  std::filesystem::path certificate_path() const { return directory_ / "cert.pem"; }

  bool exists() const;
  // The certificate's name and time. NotFound where there is no identity.
  Result<CertificateFacts> facts() const;

  // Makes the key, if there is none, and a request for it.
  Result<std::string> request() const;
  // Durable, each file whole or as it was.
  Status save(const std::string& authority, const std::string& certificate) const;
  Status renew(const std::string& certificate) const;

 private:
  std::filesystem::path directory_;
};

// What a new member of a cluster is given, out of band, on one line:
//   baton1.<the authority's certificate, DER in base64url>.<secret>
// With it the first connection already knows whom it talks to. The secret is good once.
struct JoinToken {
  std::string authority;  // PEM
  std::string secret;
};
Result<std::string> to_text(const JoinToken& token);
// InvalidArgument: it is none; the text itself is not repeated.
Result<JoinToken> parse_join_token(std::string_view text);

}  // namespace baton::wire
