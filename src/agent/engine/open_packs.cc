#include "agent/engine/open_packs.h"

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

OpenPacks OpenPacks::another() const {
  OpenPacks packs(folder_);
  for (const auto& [hash, reader] : readers_)
    if (reader) packs.readers_[hash] = reader->another();
  return packs;
}

}  // namespace baton::agent
