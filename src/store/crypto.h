// What the store needs of cryptography, over OpenSSL's libcrypto: AES-256-GCM, keys derived with
// HKDF-SHA256, HMAC-SHA256, random bytes. docs/store-format.md says what is done with it.
//
// When libcrypto itself fails (no memory, no entropy, no AES), these throw std::runtime_error:
// there is nothing to go on with.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

struct evp_cipher_ctx_st;

namespace baton::store {

// 256 bits that nobody is to see. Overwritten when it goes.
class Secret {
 public:
  static constexpr std::size_t kBytes = 32;
  Secret() = default;
  Secret(const Secret&) = default;
  Secret& operator=(const Secret&) = default;
  ~Secret();

  unsigned char* data() { return bytes_.data(); }
  const unsigned char* data() const { return bytes_.data(); }

 private:
  std::array<unsigned char, kBytes> bytes_{};
};

// Overwrites what was secret, also where the compiler sees that nobody reads it any more.
void wipe(std::string& text);

void fill_random(void* data, std::size_t size);
Secret random_secret();

// The first `size` bytes (32 at most) of HKDF-SHA256.
void derive(const Secret& secret, std::string_view salt, std::string_view info, void* out,
            std::size_t size);
Secret derive_secret(const Secret& secret, std::string_view salt, std::string_view info);

// The first 128 bits of HMAC-SHA256, as 32 hexadecimal digits.
std::string keyed_hash(const Secret& secret, std::string_view text);

// AES-256-GCM under one key, message after message: begin(), update()…, then seal() or open().
class Gcm {
 public:
  enum class Way { Seal, Open };
  static constexpr std::size_t kNonceBytes = 12;
  static constexpr std::size_t kTagBytes = 16;
  using Nonce = std::array<unsigned char, kNonceBytes>;

  Gcm(const Secret& key, Way way);

  // A nonce is used for one message under a key and never again.
  void begin(const Nonce& nonce, std::string_view associated);
  // `in` and `out` may be the same place.
  void update(const void* in, std::size_t size, void* out);
  void seal(void* tag);
  // False: message, associated data or tag are not what was sealed. What update() gave must not be
  // used before.
  bool open(const void* tag);

 private:
  struct Free {
    void operator()(evp_cipher_ctx_st* context) const;
  };
  std::unique_ptr<evp_cipher_ctx_st, Free> context_;
};

}  // namespace baton::store
