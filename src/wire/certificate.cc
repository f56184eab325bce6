#include "wire/certificate.h"

#include <openssl/bio.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <memory>
#include <span>
#include <vector>

namespace baton::wire {
namespace {

constexpr long kVersion3 = 2;     // counts from 0 in X.509
constexpr int kSerialBits = 159;  // RFC 5280, 4.1.2.2: positive, at most 20 octets
constexpr std::size_t kSecretBytes = 32;

template <auto Free>
struct Freer {
  template <typename T>
  void operator()(T* object) const {
    Free(object);
  }
};
using Bio = std::unique_ptr<BIO, Freer<BIO_free_all>>;
using Key = std::unique_ptr<EVP_PKEY, Freer<EVP_PKEY_free>>;
using Certificate = std::unique_ptr<X509, Freer<X509_free>>;
using Request = std::unique_ptr<X509_REQ, Freer<X509_REQ_free>>;
using Extension = std::unique_ptr<X509_EXTENSION, Freer<X509_EXTENSION_free>>;
using Number = std::unique_ptr<BIGNUM, Freer<BN_free>>;
using Names = std::unique_ptr<GENERAL_NAMES, Freer<GENERAL_NAMES_free>>;

Error openssl_error(std::string_view what, ErrorCode code = ErrorCode::Internal) {
  std::string reason = "unknown error";
  if (const unsigned long number = ERR_peek_last_error()) {
    std::array<char, 256> text{};
    ERR_error_string_n(number, text.data(), text.size());
    reason = text.data();
  }
  ERR_clear_error();
  return Error(code, fmt::format("{}: {}", what, reason));
}

Bio reader(const std::string& pem) {
  return Bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
}

// What `write` leaves in a memory BIO.
template <typename Write>
Result<std::string> to_pem(std::string_view what, Write write) {
  Bio bio(BIO_new(BIO_s_mem()));
  if (!bio || write(bio.get()) != 1) return fail(openssl_error(what));
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio.get(), &data);
  return std::string(data, static_cast<std::size_t>(size));
}

// Never asks a terminal for a passphrase.
int no_passphrase(char*, int, int, void*) { return -1; }

Result<Key> parse_key(const std::string& pem) {
  Key key(PEM_read_bio_PrivateKey(reader(pem).get(), nullptr, no_passphrase, nullptr));
  if (!key) return fail(openssl_error("read a private key", ErrorCode::Damaged));
  return key;
}

Result<Certificate> parse_certificate(const std::string& pem) {
  Certificate certificate(PEM_read_bio_X509(reader(pem).get(), nullptr, no_passphrase, nullptr));
  if (!certificate) return fail(openssl_error("read a certificate", ErrorCode::Damaged));
  return certificate;
}

bool is_p256(const EVP_PKEY* key) {
  std::array<char, 64> group{};
  std::size_t length = 0;
  return EVP_PKEY_is_a(key, "EC") == 1 &&
         EVP_PKEY_get_group_name(key, group.data(), group.size(), &length) == 1 &&
         std::string_view(group.data(), length) == SN_X9_62_prime256v1;
}

bool set_random_serial(X509* certificate) {
  Number serial(BN_new());
  return serial && BN_rand(serial.get(), kSerialBits, BN_RAND_TOP_ONE, BN_RAND_BOTTOM_ANY) == 1 &&
         BN_to_ASN1_INTEGER(serial.get(), X509_get_serialNumber(certificate)) != nullptr;
}

bool set_validity(X509* certificate, std::chrono::seconds valid_for) {
  return X509_gmtime_adj(X509_getm_notBefore(certificate), -kBackdatedSeconds) &&
         X509_gmtime_adj(X509_getm_notAfter(certificate), static_cast<long>(valid_for.count()));
}

bool add_extension(X509* certificate, X509* issuer, int kind, const std::string& value) {
  X509V3_CTX context;
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  Extension extension(X509V3_EXT_conf_nid(nullptr, &context, kind, value.c_str()));
  return extension && X509_add_ext(certificate, extension.get(), -1) == 1;
}

// A common name is at most 64 characters (RFC 5280, ub-common-name).
bool set_common_name(X509_NAME* subject, std::string name) {
  name.resize(std::min<std::size_t>(name.size(), 64));
  return X509_NAME_add_entry_by_NID(subject, NID_commonName, MBSTRING_UTF8,
                                    reinterpret_cast<const unsigned char*>(name.data()),
                                    static_cast<int>(name.size()), -1, 0) == 1;
}

Result<std::string> write_certificate(X509* certificate) {
  return to_pem("write a certificate",
                [&](BIO* bio) { return PEM_write_bio_X509(bio, certificate); });
}

std::string to_base64url(std::span<const unsigned char> bytes) {
  std::vector<unsigned char> text(4 * (bytes.size() / 3 + 1) + 1);
  const int length = EVP_EncodeBlock(text.data(), bytes.data(), static_cast<int>(bytes.size()));
  std::string result(reinterpret_cast<char*>(text.data()), static_cast<std::size_t>(length));
  while (result.ends_with('=')) result.pop_back();
  for (char& c : result) c = c == '+' ? '-' : c == '/' ? '_' : c;
  return result;
}

std::int64_t seconds_of(const ASN1_TIME* time) {
  std::tm fields{};
  return ASN1_TIME_to_tm(time, &fields) == 1 ? ::timegm(&fields) : 0;
}

// What goes into OpenSSL's list of names as it is: no comma, no colon.
bool is_plain(std::string_view name) {
  return !name.empty() && std::ranges::all_of(name, [](unsigned char c) {
    return std::isalnum(c) != 0 || c == '_' || c == '.' || c == '-';
  });
}

constexpr std::pair<PeerKind, std::string_view> kKinds[] = {
    {PeerKind::Node, "node"}, {PeerKind::User, "user"}, {PeerKind::Controller, "controller"}};

}  // namespace

std::string to_uri(const PeerName& name) {
  std::string_view kind;
  for (const auto& [value, text] : kKinds)
    if (value == name.kind) kind = text;
  return fmt::format("baton:{}:{}:{}", kind, name.name, name.number);
}

std::optional<PeerName> parse_peer_uri(std::string_view uri) {
  for (const auto& [kind, text] : kKinds) {
    const std::string prefix = fmt::format("baton:{}:", text);
    if (!uri.starts_with(prefix)) continue;
    const std::string_view rest = uri.substr(prefix.size());
    const auto colon = rest.find(':');
    if (colon == std::string_view::npos || colon == 0) return std::nullopt;
    PeerName name{kind, std::string(rest.substr(0, colon)), 0};
    const std::string_view number = rest.substr(colon + 1);
    const auto [end, error] =
        std::from_chars(number.data(), number.data() + number.size(), name.number);
    if (error != std::errc() || to_uri(name) != uri) return std::nullopt;
    return name;
  }
  return std::nullopt;
}

Result<std::string> make_key() {
  Key key(EVP_EC_gen(SN_X9_62_prime256v1));
  if (!key) return fail(openssl_error("make a key"));
  return to_pem("write a key", [&](BIO* bio) {
    return PEM_write_bio_PKCS8PrivateKey(bio, key.get(), nullptr, nullptr, 0, nullptr, nullptr);
  });
}

Result<Authority> make_authority(const std::string& cluster, std::chrono::seconds valid_for) {
  Authority authority;
  BATON_TRY(authority.key, make_key());
  BATON_TRY(const Key key, parse_key(authority.key));
  Certificate certificate(X509_new());
  X509* x509 = certificate.get();
  if (!x509 || X509_set_version(x509, kVersion3) != 1 || !set_random_serial(x509) ||
      !set_validity(x509, valid_for) || X509_set_pubkey(x509, key.get()) != 1 ||
      !set_common_name(X509_get_subject_name(x509), cluster) ||
      X509_set_issuer_name(x509, X509_get_subject_name(x509)) != 1 ||
      !add_extension(x509, x509, NID_basic_constraints, "critical,CA:TRUE,pathlen:0") ||
      !add_extension(x509, x509, NID_key_usage, "critical,keyCertSign") ||
      !add_extension(x509, x509, NID_subject_key_identifier, "hash") ||
      X509_sign(x509, key.get(), EVP_sha256()) == 0)
    return fail(openssl_error("make a certificate authority"));
  BATON_TRY(authority.certificate, write_certificate(x509));
  return authority;
}

Result<std::string> make_request(const std::string& key_pem) {
  BATON_TRY(const Key key, parse_key(key_pem));
  Request request(X509_REQ_new());
  if (!request || X509_REQ_set_version(request.get(), 0) != 1 ||
      X509_REQ_set_pubkey(request.get(), key.get()) != 1 ||
      X509_REQ_sign(request.get(), key.get(), EVP_sha256()) == 0)
    return fail(openssl_error("make a certificate request"));
  return to_pem("write a certificate request",
                [&](BIO* bio) { return PEM_write_bio_X509_REQ(bio, request.get()); });
}

Result<std::string> sign(const Authority& authority, const std::string& request_pem,
                         const PeerName& name, std::chrono::seconds valid_for) {
  if (!is_plain(name.name))
    return fail(ErrorCode::InvalidArgument,
                fmt::format("\"{}\" can't be a name in a certificate", name.name));
  BATON_TRY(const Key authority_key, parse_key(authority.key));
  BATON_TRY(const Certificate issuer, parse_certificate(authority.certificate));
  Request request(
      PEM_read_bio_X509_REQ(reader(request_pem).get(), nullptr, no_passphrase, nullptr));
  if (!request)
    return fail(openssl_error("read a certificate request", ErrorCode::InvalidArgument));
  EVP_PKEY* key = X509_REQ_get0_pubkey(request.get());
  if (!key || !is_p256(key) || X509_REQ_verify(request.get(), key) != 1) {
    ERR_clear_error();
    return fail(ErrorCode::InvalidArgument,
                "the certificate request is not signed by a key on P-256 that it is for");
  }
  std::string names = "URI:" + to_uri(name);
  if (name.kind == PeerKind::Controller) names += fmt::format(",DNS:{}", kControllerHost);
  const char* usage = name.kind == PeerKind::Controller ? "serverAuth" : "clientAuth";
  Certificate certificate(X509_new());
  X509* x509 = certificate.get();
  if (!x509 || X509_set_version(x509, kVersion3) != 1 || !set_random_serial(x509) ||
      !set_validity(x509, valid_for) || X509_set_pubkey(x509, key) != 1 ||
      !set_common_name(X509_get_subject_name(x509), name.name) ||
      X509_set_issuer_name(x509, X509_get_subject_name(issuer.get())) != 1 ||
      !add_extension(x509, issuer.get(), NID_basic_constraints, "critical,CA:FALSE") ||
      !add_extension(x509, issuer.get(), NID_key_usage, "critical,digitalSignature") ||
      !add_extension(x509, issuer.get(), NID_ext_key_usage, usage) ||
      !add_extension(x509, issuer.get(), NID_subject_alt_name, names) ||
      !add_extension(x509, issuer.get(), NID_authority_key_identifier, "keyid") ||
      X509_sign(x509, authority_key.get(), EVP_sha256()) == 0)
    return fail(openssl_error("sign a certificate"));
  return write_certificate(x509);
}

Result<CertificateFacts> read_certificate(const std::string& pem) {
  BATON_TRY(const Certificate certificate, parse_certificate(pem));
  CertificateFacts facts;
  facts.made_s = seconds_of(X509_get0_notBefore(certificate.get())) + kBackdatedSeconds;
  facts.not_after_s = seconds_of(X509_get0_notAfter(certificate.get()));
  // Earlier versions backdated by minutes.
  if (facts.made_s >= facts.not_after_s) facts.made_s -= kBackdatedSeconds;
  const Names names(static_cast<GENERAL_NAMES*>(
      X509_get_ext_d2i(certificate.get(), NID_subject_alt_name, nullptr, nullptr)));
  for (int i = 0; names && i < sk_GENERAL_NAME_num(names.get()); ++i) {
    int type = 0;
    const auto* value = static_cast<const ASN1_STRING*>(
        GENERAL_NAME_get0_value(sk_GENERAL_NAME_value(names.get(), i), &type));
    if (type != GEN_URI) continue;
    facts.name = parse_peer_uri({reinterpret_cast<const char*>(ASN1_STRING_get0_data(value)),
                                 static_cast<std::size_t>(ASN1_STRING_length(value))});
  }
  return facts;
}

Result<std::string> pem_to_base64url(const std::string& pem) {
  BATON_TRY(const Certificate certificate, parse_certificate(pem));
  unsigned char* der = nullptr;
  const int size = i2d_X509(certificate.get(), &der);
  if (size < 0) return fail(openssl_error("write a certificate"));
  std::string text = to_base64url({der, static_cast<std::size_t>(size)});
  OPENSSL_free(der);
  return text;
}

Result<std::string> base64url_to_pem(std::string_view text) {
  std::string padded(text);
  for (char& c : padded) c = c == '-' ? '+' : c == '_' ? '/' : c;
  const std::size_t padding = (4 - padded.size() % 4) % 4;
  padded.append(padding, '=');
  std::vector<unsigned char> der(padded.size());
  const int size =
      EVP_DecodeBlock(der.data(), reinterpret_cast<const unsigned char*>(padded.data()),
                      static_cast<int>(padded.size()));
  const unsigned char* at = der.data();
  const Certificate certificate(
      size < 0 ? nullptr : d2i_X509(nullptr, &at, size - static_cast<int>(padding)));
  if (!certificate) return fail(openssl_error("read a certificate", ErrorCode::Damaged));
  return write_certificate(certificate.get());
}

std::string sha256(std::string_view data) {
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned size = 0;
  EVP_Digest(data.data(), data.size(), digest.data(), &size, EVP_sha256(), nullptr);
  std::string hex;
  for (unsigned i = 0; i < size; ++i) hex += fmt::format("{:02x}", digest[i]);
  return hex;
}

Result<std::string> make_secret() {
  std::array<unsigned char, kSecretBytes> bytes{};
  if (RAND_bytes(bytes.data(), static_cast<int>(bytes.size())) != 1)
    return fail(openssl_error("random bytes"));
  return to_base64url(bytes);
}

}  // namespace baton::wire
