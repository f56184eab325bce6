// Packs of pages.
#include "store/pack.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "fuzz.h"
#include "store/pack_format.h"
#include "sys/byte_source.h"

namespace baton::fuzz {
namespace {

void read(std::string_view bytes) {
  const auto path = scratch() / "pack";
  write_file(path, bytes);
  require_damaged(store::read_pack_pages(**sys::open_source(path)));
  auto reader = store::PackReader::open(path);
  require_damaged(reader);
  if (!reader) return;
  constexpr std::uint32_t step = 21;  // cuts extents everywhere
  std::vector<char> pages(step * store::kPageBytes);
  const std::uint32_t total = (*reader)->pages();
  for (std::uint32_t first = 0; first < total; first += step) {
    const std::uint32_t count = std::min(step, total - first);
    auto outcome = (*reader)->read(first, count, pages.data());
    require_damaged(outcome);
    for (std::uint32_t i = 0; outcome && i < count; ++i)
      require(store::hash_page(pages.data() + i * store::kPageBytes) == (*reader)->hash(first + i));
  }
  require(!(*reader)->read(total, 1, pages.data()));
}

}  // namespace
}  // namespace baton::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace baton;
  std::string bytes(fuzz::as_text(data, size));
  fuzz::read(bytes);
  // Chance does not find checksums: once more with the right one.
  store::pack_format::Foot foot;
  if (size < sizeof foot) return 0;
  const std::size_t foot_at = size - sizeof foot;
  std::memcpy(&foot, data + foot_at, sizeof foot);
  if (foot.index_offset > foot_at) return 0;
  foot.index_hash = store::hash_whole(
      std::string_view(bytes).substr(foot.index_offset, foot_at - foot.index_offset));
  std::memcpy(bytes.data() + foot_at, &foot, sizeof foot);
  fuzz::read(bytes);
  return 0;
}
