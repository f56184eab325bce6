#include "store/crypto.h"

#include <fmt/format.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <openssl/rand.h>

#include <stdexcept>

namespace baton::store {
namespace {

constexpr std::size_t kNameBytes = 16;

void need(bool done, const char* what) {
  if (!done) throw std::runtime_error(fmt::format("libcrypto: {} failed", what));
}

OSSL_PARAM octets(const char* key, std::string_view text) {
  return OSSL_PARAM_construct_octet_string(key, const_cast<char*>(text.data()), text.size());
}

}  // namespace

Secret::~Secret() { OPENSSL_cleanse(bytes_.data(), bytes_.size()); }

void wipe(std::string& text) { OPENSSL_cleanse(text.data(), text.size()); }

void fill_random(void* data, std::size_t size) {
  need(RAND_bytes(static_cast<unsigned char*>(data), static_cast<int>(size)) == 1, "RAND_bytes");
}

Secret random_secret() {
  Secret secret;
  need(RAND_priv_bytes(secret.data(), Secret::kBytes) == 1, "RAND_priv_bytes");
  return secret;
}

void derive(const Secret& secret, std::string_view salt, std::string_view info, void* out,
            std::size_t size) {
  static EVP_KDF* const hkdf = EVP_KDF_fetch(nullptr, "HKDF", nullptr);
  need(hkdf, "HKDF");
  const std::unique_ptr<EVP_KDF_CTX, decltype(&EVP_KDF_CTX_free)> context(EVP_KDF_CTX_new(hkdf),
                                                                          EVP_KDF_CTX_free);
  need(context.get(), "HKDF");
  const OSSL_PARAM parameters[] = {
      OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, const_cast<char*>("SHA256"), 0),
      octets(OSSL_KDF_PARAM_KEY, {reinterpret_cast<const char*>(secret.data()), Secret::kBytes}),
      octets(OSSL_KDF_PARAM_SALT, salt), octets(OSSL_KDF_PARAM_INFO, info),
      OSSL_PARAM_construct_end()};
  need(EVP_KDF_derive(context.get(), static_cast<unsigned char*>(out), size, parameters) == 1,
       "HKDF");
}

Secret derive_secret(const Secret& secret, std::string_view salt, std::string_view info) {
  Secret derived;
  derive(secret, salt, info, derived.data(), Secret::kBytes);
  return derived;
}

std::string keyed_hash(const Secret& secret, std::string_view text) {
  unsigned char digest[EVP_MAX_MD_SIZE];
  need(HMAC(EVP_sha256(), secret.data(), Secret::kBytes,
            reinterpret_cast<const unsigned char*>(text.data()), text.size(), digest, nullptr),
       "HMAC");
  return fmt::format("{:02x}", fmt::join(digest, digest + kNameBytes, ""));
}

void Gcm::Free::operator()(evp_cipher_ctx_st* context) const { EVP_CIPHER_CTX_free(context); }

Gcm::Gcm(const Secret& key, Way way) : context_(EVP_CIPHER_CTX_new()) {
  need(context_.get(), "EVP_CIPHER_CTX_new");
  need(EVP_CipherInit_ex(context_.get(), EVP_aes_256_gcm(), nullptr, key.data(), nullptr,
                         way == Way::Seal ? 1 : 0) == 1,
       "AES-256-GCM");
}

void Gcm::begin(const Nonce& nonce, std::string_view associated) {
  int size = 0;
  // The key and the way stay.
  need(EVP_CipherInit_ex(context_.get(), nullptr, nullptr, nullptr, nonce.data(), -1) == 1 &&
           EVP_CipherUpdate(context_.get(), nullptr, &size,
                            reinterpret_cast<const unsigned char*>(associated.data()),
                            static_cast<int>(associated.size())) == 1,
       "AES-256-GCM");
}

void Gcm::update(const void* in, std::size_t size, void* out) {
  int done = 0;
  if (size == 0) return;
  need(EVP_CipherUpdate(context_.get(), static_cast<unsigned char*>(out), &done,
                        static_cast<const unsigned char*>(in), static_cast<int>(size)) == 1,
       "AES-256-GCM");
}

void Gcm::seal(void* tag) {
  unsigned char none[EVP_MAX_BLOCK_LENGTH];
  int size = 0;
  need(EVP_CipherFinal_ex(context_.get(), none, &size) == 1 &&
           EVP_CIPHER_CTX_ctrl(context_.get(), EVP_CTRL_AEAD_GET_TAG, kTagBytes, tag) == 1,
       "AES-256-GCM");
}

bool Gcm::open(const void* tag) {
  unsigned char none[EVP_MAX_BLOCK_LENGTH];
  int size = 0;
  need(EVP_CIPHER_CTX_ctrl(context_.get(), EVP_CTRL_AEAD_SET_TAG, kTagBytes,
                           const_cast<void*>(tag)) == 1,
       "AES-256-GCM");
  return EVP_CipherFinal_ex(context_.get(), none, &size) == 1;
}

}  // namespace baton::store
