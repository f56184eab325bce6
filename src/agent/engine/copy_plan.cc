#include "agent/engine/copy_plan.h"

#include <algorithm>

#include "store/page_hash.h"

namespace baton::agent {

store::PageMap newest_pages(const store::PageMap& map, std::uint64_t pages) {
  std::vector<std::uint64_t> in_pack(map.packs.size());
  for (const store::MapRun& run : map.runs)
    if (run.pack != store::kZeroPages) in_pack[run.pack] += run.pages;
  std::size_t oldest = map.packs.size();
  for (std::uint64_t found = 0; oldest > 0 && found < pages;) found += in_pack[--oldest];
  store::PageMap newest{map.packs, {}};
  for (const store::MapRun& run : map.runs)
    if (run.pack != store::kZeroPages && run.pack >= oldest) newest.runs.push_back(run);
  return newest;
}

CopyPlan::CopyPlan(const store::PageMap& map) : packs_(map.packs.size()) {
  for (const store::MapRun& run : map.runs) {
    if (run.pack == store::kZeroPages) continue;
    for (std::uint64_t at = 0; at < run.pages;) {
      const auto first = static_cast<std::uint32_t>(run.first + at);
      const auto pages = static_cast<std::uint32_t>(
          std::min<std::uint64_t>(run.pages - at, kMostPages - first % kMostPages));
      packs_[run.pack].pieces.push_back({run.address + at * store::kPageBytes, first, pages});
      at += pages;
    }
  }
  for (std::uint32_t i = 0; i < packs_.size(); ++i) packs_[i].number = i;
  std::erase_if(packs_, [](const Pack& pack) { return pack.pieces.empty(); });
  // A map names its packs in the order in which they were made.
  std::ranges::reverse(packs_);
}

std::optional<CopyStep> CopyPlan::next() {
  if (pack_ == packs_.size()) return std::nullopt;
  auto& [number, pieces] = packs_[pack_];
  // Mostly they are in order, since a pack is filled in the order of addresses.
  if (piece_ == 0 && !std::ranges::is_sorted(pieces, {}, &CopyPiece::first))
    std::ranges::sort(pieces, {}, &CopyPiece::first);
  const std::size_t begin = piece_;
  const std::uint32_t block = pieces[begin].first / kMostPages;
  while (piece_ < pieces.size() && pieces[piece_].first / kMostPages == block) ++piece_;
  CopyStep step{number, pieces[begin].first, 0, std::span(pieces).subspan(begin, piece_ - begin)};
  // Two pieces may be of the same pages.
  for (const CopyPiece& piece : step.pieces)
    step.pages = std::max(step.pages, piece.first + piece.pages - step.first);
  if (piece_ == pieces.size()) {
    ++pack_;
    piece_ = 0;
  }
  return step;
}

}  // namespace baton::agent
