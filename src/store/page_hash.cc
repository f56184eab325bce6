#include "store/page_hash.h"

#include <xxhash.h>

#include <array>

namespace baton::store {

PageHash hash_page(const char* page) { return hash_whole({page, kPageBytes}); }

PageHash hash_whole(std::string_view content) {
  XXH128_hash_t hash = XXH3_128bits(content.data(), content.size());
  return {hash.low64, hash.high64};
}

const PageHash& zero_page_hash() {
  static const PageHash hash = hash_page(std::array<char, kPageBytes>{}.data());
  return hash;
}

}  // namespace baton::store
