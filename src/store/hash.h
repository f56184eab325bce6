// The content hash of everything Baton stores: XXH3, 128 bits, as 32 lower-case hex digits of the
// canonical (big-endian) form. Finds damage and equal contents; it is no defence against malice.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"

struct XXH3_state_s;

namespace baton::store {

class Hasher {
 public:
  Hasher();
  ~Hasher();
  Hasher(const Hasher&) = delete;
  Hasher& operator=(const Hasher&) = delete;

  void reset();
  void update(std::string_view data);
  std::string hex() const;  // of everything since the start or reset()

 private:
  XXH3_state_s* state_;
};

std::string hash_bytes(std::string_view data);
// Reads the whole file.
Result<std::string> hash_file(const std::filesystem::path& path);
// 32 lower-case hex digits.
bool is_hash(std::string_view text);

}  // namespace baton::store
