#include "agent/engine/pending_pages.h"

#include <algorithm>
#include <utility>

namespace baton::agent {

void PendingPages::add(std::uint64_t start, std::uint64_t end) {
  if (start >= end) return;
  auto after = pieces_.lower_bound(start);
  if (after != pieces_.begin()) {
    Piece& before = std::prev(after)->second;
    if (before.end == start && before.image + (before.end - before.start) == start) {
      before.end = end;
      return;
    }
  }
  put({start, end, start});
}

void PendingPages::put(const Piece& piece) {
  pieces_[piece.start] = piece;
  if (moved_) by_image_[piece.image] = piece.start;
}

std::map<std::uint64_t, PendingPages::Piece>::iterator PendingPages::take(
    std::map<std::uint64_t, Piece>::iterator at) {
  if (moved_) by_image_.erase(at->second.image);
  return pieces_.erase(at);
}

void PendingPages::clear() {
  pieces_.clear();
  by_image_.clear();
}

std::optional<std::uint64_t> PendingPages::image_of(std::uint64_t address) const {
  auto after = pieces_.upper_bound(address);
  if (after == pieces_.begin()) return std::nullopt;
  const Piece& piece = std::prev(after)->second;
  if (address >= piece.end) return std::nullopt;
  return piece.image + (address - piece.start);
}

std::vector<PendingPages::Piece> PendingPages::within(std::uint64_t start,
                                                      std::uint64_t end) const {
  std::vector<Piece> found;
  auto at = pieces_.upper_bound(start);
  if (at != pieces_.begin()) --at;
  for (; at != pieces_.end() && at->first < end; ++at) {
    const Piece& piece = at->second;
    const std::uint64_t from = std::max(start, piece.start), to = std::min(end, piece.end);
    if (from < to) found.push_back({from, to, piece.image + (from - piece.start)});
  }
  return found;
}

std::vector<PendingPages::Piece> PendingPages::from_image(std::uint64_t start,
                                                          std::uint64_t end) const {
  if (!moved_) return within(start, end);
  std::vector<Piece> found;
  auto at = by_image_.upper_bound(start);
  if (at != by_image_.begin()) --at;
  for (; at != by_image_.end() && at->first < end; ++at) {
    const Piece& piece = pieces_.at(at->second);
    const std::uint64_t image_end = piece.image + (piece.end - piece.start);
    const std::uint64_t from = std::max(start, piece.image), to = std::min(end, image_end);
    if (from < to)
      found.push_back({piece.start + (from - piece.image), piece.start + (to - piece.image), from});
  }
  return found;
}

void PendingPages::drop(std::uint64_t start, std::uint64_t end) {
  auto at = pieces_.upper_bound(start);
  if (at != pieces_.begin()) --at;
  while (at != pieces_.end() && at->first < end) {
    const Piece piece = at->second;
    if (piece.end <= start) {
      ++at;
      continue;
    }
    at = take(at);
    if (piece.start < start) put({piece.start, start, piece.image});
    if (piece.end > end) put({end, piece.end, piece.image + (end - piece.start)});
  }
}

void PendingPages::move(std::uint64_t start, std::uint64_t end, std::uint64_t to) {
  const std::vector<Piece> moving = within(start, end);
  drop(start, end);
  drop(to, to + (end - start));
  if (moving.empty()) return;
  if (!std::exchange(moved_, true))
    for (const auto& [at, piece] : pieces_) by_image_[piece.image] = at;
  for (const Piece& piece : moving) {
    const std::uint64_t target = to + (piece.start - start);
    put({target, target + (piece.end - piece.start), piece.image});
  }
}

std::uint64_t PendingPages::bytes() const {
  std::uint64_t total = 0;
  for (const auto& [start, piece] : pieces_) total += piece.end - piece.start;
  return total;
}

std::vector<PendingPages::Piece> PendingPages::all() const {
  std::vector<Piece> result;
  for (const auto& [start, piece] : pieces_) result.push_back(piece);
  return result;
}

}  // namespace baton::agent
