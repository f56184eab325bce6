#include "agent/engine/page_store.h"

#include <algorithm>
#include <cassert>
#include <unordered_map>
#include <utility>

namespace baton::agent {

using store::PageHash;
using sys::page_bytes;

// One that was dropped since the draft has none of what it had there.
PageStore::Chunk& PageStore::chunk_at(std::uint64_t number) {
  const auto [at, is_new] = chunks_.try_emplace(number);
  if (is_new && draft_ && draft_->dropped.contains(number)) at->second.changed.set();
  return at->second;
}

void PageStore::set_held(Chunk& chunk, std::uint64_t index, bool held) {
  if (chunk.held[index] != held) chunk.changed.set(index);
  pages_held_ += held;
  pages_held_ -= chunk.held[index];
  chunk.held[index] = held;
}

Status PageStore::put_page(Chunk& chunk, std::uint64_t index, const char* content) {
  PageHash hash = store::hash_page(content);
  if (!chunk.known[index] || chunk.hash[index] != hash) {
    set_held(chunk, index, false);
    chunk.changed.set(index);
    PageLocation location;
    if (hash != store::zero_page_hash()) {
      BATON_TRY(location, packs_->add(content, hash));
    }
    chunk.location[index] = location;
    chunk.hash[index] = hash;
    chunk.known[index] = true;
  }
  set_held(chunk, index, true);
  return {};
}

Status PageStore::put(std::uint64_t address, std::span<const char> content) {
  assert(address % page_bytes == 0 && content.size() % page_bytes == 0);
  while (!content.empty()) {
    Chunk& chunk = chunk_at(address / chunk_bytes);
    const std::uint64_t first = address % chunk_bytes / page_bytes;
    const std::uint64_t count = std::min(content.size() / page_bytes, chunk_pages - first);
    for (std::uint64_t i = 0; i < count; ++i)
      BATON_CHECK(put_page(chunk, first + i, content.data() + i * page_bytes));
    address += count * page_bytes;
    content = content.subspan(count * page_bytes);
  }
  return {};
}

// Calls visit(chunk, first, last) for the parts of `pages` of which there is a chunk.
template <typename Visit>
void PageStore::in_chunks(const PageSet& pages, Visit visit) {
  for (const PageRun& run : pages.runs()) {
    auto at = chunks_.lower_bound(run.start / chunk_bytes);
    for (; at != chunks_.end() && at->first * chunk_bytes < run.end; ++at) {
      std::uint64_t base = at->first * chunk_bytes;
      visit(at->second, (std::max(run.start, base) - base) / page_bytes,
            (std::min(run.end, base + chunk_bytes) - base) / page_bytes);
    }
  }
}

void PageStore::forget(const PageSet& pages) {
  in_chunks(pages, [&](Chunk& chunk, std::uint64_t first, std::uint64_t last) {
    for (std::uint64_t i = first; i < last; ++i) set_held(chunk, i, false);
  });
}

void PageStore::forget_all() {
  for (auto& [number, chunk] : chunks_) chunk.held.reset();
  pages_held_ = 0;
  draft_.reset();
}

void PageStore::keep_only(const PageSet& pages) {
  std::map<const Chunk*, std::bitset<chunk_pages>> keep;
  in_chunks(pages, [&](Chunk& chunk, std::uint64_t first, std::uint64_t last) {
    auto& kept = keep[&chunk];
    if (last - first == chunk_pages) {
      kept.set();  // mostly
      return;
    }
    for (std::uint64_t i = first; i < last; ++i) kept.set(i);
  });
  pages_held_ = 0;
  std::erase_if(chunks_, [&](auto& entry) {
    auto at = keep.find(&entry.second);
    const bool drop = at == keep.end() || (entry.second.known & at->second).none();
    if (drop && draft_) draft_->dropped.insert(entry.first);
    return drop;
  });
  for (auto& [number, chunk] : chunks_) {
    const auto& kept = keep[&chunk];
    chunk.changed |= chunk.held & ~kept;
    chunk.held &= kept;
    chunk.known &= kept;
    pages_held_ += chunk.held.count();
  }
}

Status PageStore::remember(const store::PageMap& map, std::span<const std::uint32_t> pack_numbers) {
  std::map<std::uint32_t, std::unique_ptr<store::PackReader>> readers;
  for (const store::MapRun& run : map.runs) {
    const bool zero = run.pack == store::kZeroPages;
    auto& reader = readers[run.pack];
    if (!zero && !reader) {
      const auto& pack = packs_->packs().at(pack_numbers[run.pack]);
      BATON_TRY(reader, store::PackReader::open(packs_->path(pack)));
      if (reader->pages() != map.packs[run.pack].pages)
        return fail(ErrorCode::Damaged, fmt::format("pack {} has other pages", pack.hash));
    }
    for (std::uint64_t i = 0; i < run.pages; ++i) {
      const std::uint64_t address = run.address + i * page_bytes;
      Chunk& chunk = chunk_at(address / chunk_bytes);
      const std::uint64_t index = address % chunk_bytes / page_bytes;
      if (chunk.known[index]) continue;
      const auto page = run.first + static_cast<std::uint32_t>(i);
      chunk.location[index] = zero ? PageLocation() : PageLocation{pack_numbers[run.pack], page};
      chunk.hash[index] = zero ? store::zero_page_hash() : reader->hash(page);
      chunk.known[index] = true;
    }
  }
  return {};
}

PageSet PageStore::missing(const PageSet& wanted) const {
  PageSet missing;
  for (const PageRun& run : wanted.runs()) {
    for (std::uint64_t at = run.start; at < run.end;) {
      std::uint64_t end = std::min(run.end, (at / chunk_bytes + 1) * chunk_bytes);
      auto found = chunks_.find(at / chunk_bytes);
      if (found == chunks_.end()) {
        missing.append(at, end);
      } else if (!found->second.held.all()) {
        for (std::uint64_t page = at; page < end; page += page_bytes)
          if (!found->second.held[page % chunk_bytes / page_bytes])
            missing.append(page, page + page_bytes);
      }
      at = end;
    }
  }
  return missing;
}

store::PageMap PageStore::map() const {
  // All that is done for each page is one comparison.
  store::PageMap map;
  for (const auto& [number, chunk] : chunks_)
    for (std::uint64_t i = 0; i < chunk_pages;) {
      if (!chunk.held[i]) {
        ++i;
        continue;
      }
      const auto [pack, page] = chunk.location[i];
      const std::uint64_t begin = i++;
      // Zeroes are all the same one.
      for (const std::uint32_t step = pack != 0; i < chunk_pages && chunk.held[i]; ++i)
        if (chunk.location[i].pack != pack ||
            chunk.location[i].page != page + step * static_cast<std::uint32_t>(i - begin))
          break;
      map.append({number * chunk_bytes + begin * page_bytes, i - begin,
                  pack == 0 ? store::kZeroPages : pack, pack == 0 ? 0 : page});
    }
  name_packs(map);
  return map;
}

store::PageMap PageStore::changes() const {
  store::PageMap map;
  std::map<std::uint64_t, const Chunk*> changed;  // null: it is gone
  for (std::uint64_t number : draft_->dropped) changed[number] = nullptr;
  for (const auto& [number, chunk] : chunks_)
    if (chunk.changed.any()) changed[number] = &chunk;
  for (const auto& [number, chunk] : changed)
    for (std::uint64_t i = 0; i < chunk_pages; ++i) {
      if (chunk && !chunk->changed[i]) continue;
      store::MapRun run{number * chunk_bytes + i * page_bytes, 1, store::kNoPages, 0};
      if (chunk && chunk->held[i]) {
        const auto [pack, page] = chunk->location[i];
        run.pack = pack == 0 ? store::kZeroPages : pack;
        run.first = pack == 0 ? 0 : page;
      }
      map.append(run);
    }
  name_packs(map);
  return map;
}

// The runs have the packs' numbers still.
void PageStore::name_packs(store::PageMap& map) const {
  std::set<std::uint32_t> used;
  std::uint32_t last_used = 0;  // mostly the next run's pack, too
  for (const store::MapRun& run : map.runs)
    if (store::is_pack(run.pack) && run.pack != last_used) used.insert(last_used = run.pack);
  // In the order in which they were made: a restore begins with what was written last.
  std::unordered_map<std::uint32_t, std::uint32_t> index_of;
  for (std::uint32_t number : used) {
    const PagePacks::Pack& pack = packs_->packs().at(number);
    assert(!pack.hash.empty());
    index_of[number] = static_cast<std::uint32_t>(map.packs.size());
    map.packs.push_back({pack.hash, pack.pages});
  }
  std::uint32_t last = 0, last_index = 0;
  for (store::MapRun& run : map.runs) {
    if (!store::is_pack(run.pack)) continue;
    if (run.pack != last) last_index = index_of.at(last = run.pack);
    run.pack = last_index;
  }
}

const std::vector<std::string>& PageStore::draft_map() {
  draft_.reset();
  draft_ = Draft{take_encoded_map(), {}};
  for (auto& [number, chunk] : chunks_) chunk.changed.reset();
  return draft_->map.packs;
}

PageStore::EncodedMap PageStore::take_encoded_map() {
  EncodedMap encoded;
  store::PageMap map = draft_ ? changes() : this->map();
  if (auto draft = std::exchange(draft_, std::nullopt)) {
    encoded.packs = std::move(draft->map.packs);
    encoded.bytes = store::encode_changed_map(std::move(draft->map.bytes), map);
  } else {
    encoded.bytes = store::encode_page_map(map);
  }
  for (auto& pack : map.packs) encoded.packs.push_back(std::move(pack.hash));
  return encoded;
}

Status PageStore::for_each(const std::function<Status(PageLocation&, const PageHash&)>& visit) {
  draft_.reset();
  for (auto& [number, chunk] : chunks_)
    for (std::uint64_t i = 0; i < chunk_pages; ++i)
      if (chunk.held[i] && chunk.location[i].pack != 0)
        BATON_CHECK(visit(chunk.location[i], chunk.hash[i]));
  return {};
}

}  // namespace baton::agent
