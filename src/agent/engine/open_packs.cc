#include "agent/engine/open_packs.h"

#include <algorithm>
#include <vector>

namespace baton::agent {

Result<store::PackReader*> OpenPacks::get(const std::string& hash) {
  auto& reader = readers_[hash];
  if (!reader) {
    BATON_TRY(reader, store::PackReader::open(folder_ / hash));
  }
  return reader.get();
}

Status OpenPacks::open_all(const store::PageMap& map) {
  for (const auto& pack : map.packs) BATON_CHECK(get(pack.hash));
  return {};
}

Status OpenPacks::prove(const store::PageMap& map, const std::stop_token& given_up) {
  constexpr std::uint64_t kPagesAtOnce = 64;
  std::vector<char> pages(kPagesAtOnce * store::kPageBytes);
  for (const store::MapRun& run : map.runs) {
    if (run.pack == store::kZeroPages) continue;
    BATON_TRY(store::PackReader* const pack, get(map.packs[run.pack].hash));
    for (std::uint64_t at = 0; at < run.pages; at += kPagesAtOnce) {
      if (given_up.stop_requested()) return fail(ErrorCode::Cancelled, "it was given up");
      BATON_CHECK(pack->read(static_cast<std::uint32_t>(run.first + at),
                             static_cast<std::uint32_t>(std::min(kPagesAtOnce, run.pages - at)),
                             pages.data()));
    }
  }
  return {};
}

OpenPacks OpenPacks::another() const {
  OpenPacks packs(folder_);
  for (const auto& [hash, reader] : readers_)
    if (reader) packs.readers_[hash] = reader->another();
  return packs;
}

}  // namespace baton::agent
