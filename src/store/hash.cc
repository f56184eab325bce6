#include "store/hash.h"

#include <fcntl.h>
#include <xxhash.h>

#include <algorithm>
#include <new>
#include <vector>

#include "sys/file.h"

namespace baton::store {
namespace {

std::string to_hex(XXH128_hash_t hash) {
  return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
}

}  // namespace

Hasher::Hasher() : state_(XXH3_createState()) {
  if (!state_) throw std::bad_alloc();
  reset();
}

Hasher::~Hasher() { XXH3_freeState(state_); }

void Hasher::reset() { XXH3_128bits_reset(state_); }

void Hasher::update(std::string_view data) {
  XXH3_128bits_update(state_, data.data(), data.size());
}

std::string Hasher::hex() const { return to_hex(XXH3_128bits_digest(state_)); }

std::string hash_bytes(std::string_view data) {
  return to_hex(XXH3_128bits(data.data(), data.size()));
}

Result<std::string> hash_file(const std::filesystem::path& path) {
  BATON_TRY(Fd fd, sys::open_file(path, O_RDONLY));
  Hasher hasher;
  std::vector<char> buffer(256 << 10);
  for (;;) {
    ssize_t count = ::read(fd.get(), buffer.data(), buffer.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return fail_errno(fmt::format("read {}", path.string()));
    if (count == 0) return hasher.hex();
    hasher.update({buffer.data(), static_cast<std::size_t>(count)});
  }
}

bool is_hash(std::string_view text) {
  return text.size() == 32 && std::ranges::all_of(text, [](char c) {
           return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
         });
}

}  // namespace baton::store
