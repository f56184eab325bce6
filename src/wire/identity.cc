#include "wire/identity.h"

#include "sys/file.h"

namespace baton::wire {
namespace {

constexpr std::uint64_t kMaxPemBytes = 64 << 10;
constexpr std::string_view kTokenPrefix = "baton1.";

}  // namespace

bool Identity::exists() const {
  std::error_code ignored;
  return std::filesystem::exists(certificate_path(), ignored);
}

Result<CertificateFacts> Identity::facts() const {
  BATON_TRY(const std::string pem, sys::read_file(certificate_path(), kMaxPemBytes));
  auto facts = read_certificate(pem);
  if (!facts) return fail(std::move(facts).error().context(certificate_path().string()));
  if (!facts->name)
    return fail(ErrorCode::Damaged,
                fmt::format("{}: it was not made by Baton", certificate_path().string()));
  return facts;
}

Result<std::string> Identity::request() const {
  BATON_CHECK(sys::make_directories(directory_, 0700));
  auto key = sys::read_file(key_path(), kMaxPemBytes);
  if (!key && key.error().code() == ErrorCode::NotFound) {
    BATON_TRY(key, make_key());
    BATON_CHECK(sys::write_file_durable(key_path(), *key, 0600));
  }
  if (!key) return fail(std::move(key).error());
  auto request = make_request(*key);
  if (!request) return fail(std::move(request).error().context(key_path().string()));
  return request;
}

Status Identity::save(const std::string& authority, const std::string& certificate) const {
  BATON_CHECK(sys::write_file_durable(authority_path(), authority));
  return renew(certificate);
}

Status Identity::renew(const std::string& certificate) const {
  return sys::write_file_durable(certificate_path(), certificate);
}

Result<std::string> to_text(const JoinToken& token) {
  BATON_TRY(const std::string authority, pem_to_base64url(token.authority));
  return fmt::format("{}{}.{}", kTokenPrefix, authority, token.secret);
}

Result<JoinToken> parse_join_token(std::string_view text) {
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.back())))
    text.remove_suffix(1);
  const auto dot = text.rfind('.');
  if (!text.starts_with(kTokenPrefix) || dot == std::string_view::npos ||
      dot < kTokenPrefix.size() || dot + 1 == text.size())
    return fail(ErrorCode::InvalidArgument,
                "this is no token; `baton token create` prints one, a line that begins with "
                "\"baton1.\"");
  JoinToken token;
  auto authority = base64url_to_pem(text.substr(kTokenPrefix.size(), dot - kTokenPrefix.size()));
  if (!authority)
    return fail(ErrorCode::InvalidArgument,
                "the token's middle part is damaged; was all of the line copied?");
  token.authority = std::move(*authority);
  token.secret = text.substr(dot + 1);
  return token;
}

}  // namespace baton::wire
