// Maps of pages.
#include "store/page_map.h"

#include <zstd.h>

#include <algorithm>
#include <cstring>
#include <string>

#include "fuzz.h"
#include "store/page_hash.h"

namespace baton::fuzz {
namespace {

void decode(std::string_view bytes) {
  auto map = store::decode_page_map(bytes);
  require_damaged(map);
  if (!map) return;
  std::uint64_t end = 0;
  for (const store::MapRun& run : map->runs) {
    require(run.address >= end && run.pages > 0);
    end = run.address + run.pages * store::kPageBytes;
    require(end > run.address);
    if (run.pack == store::kZeroPages) continue;
    require(run.pack < map->packs.size());
    require(run.first + run.pages <= map->packs[run.pack].pages);
  }
  auto again = store::decode_page_map(store::encode_page_map(*map));
  require(again && *again == *map);
}

// The same with a body that is compressed only now and has the right size and checksum: chance
// finds none of them.
std::string seal(std::string_view bytes) {
  constexpr std::size_t head_bytes = 48, packs_at = 12, body_bytes_at = 24, hash_at = 32;
  std::string head(bytes.substr(0, head_bytes));
  std::uint32_t packs = 0;
  std::memcpy(&packs, head.data() + packs_at, sizeof packs);
  const std::string_view rest = bytes.substr(head_bytes);
  const std::size_t table_bytes = std::min<std::size_t>(std::size_t{packs} * 24, rest.size());
  const std::string_view body = rest.substr(table_bytes);
  const std::uint64_t body_bytes = body.size();
  const store::PageHash hash = store::hash_whole(rest);
  std::memcpy(head.data() + body_bytes_at, &body_bytes, sizeof body_bytes);
  std::memcpy(head.data() + hash_at, &hash, sizeof hash);
  std::string compressed(ZSTD_compressBound(body.size()), '\0');
  compressed.resize(
      ZSTD_compress(compressed.data(), compressed.size(), body.data(), body.size(), 1));
  return head + std::string(rest.substr(0, table_bytes)) + compressed;
}

}  // namespace
}  // namespace baton::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace baton::fuzz;
  decode(as_text(data, size));
  if (size >= 48) decode(seal(as_text(data, size)));
  return 0;
}
