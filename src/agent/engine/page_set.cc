#include "agent/engine/page_set.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cassert>

#include "sys/file.h"

namespace baton::agent {

using sys::page_bytes;

void PageSet::append(std::uint64_t start, std::uint64_t end) {
  assert(runs_.empty() || start >= runs_.back().end);
  if (start >= end) return;
  if (!runs_.empty() && runs_.back().end == start)
    runs_.back().end = end;
  else
    runs_.push_back({start, end});
}

std::uint64_t PageSet::pages() const {
  std::uint64_t pages = 0;
  for (const PageRun& run : runs_) pages += run.pages();
  return pages;
}

PageSet unite(const PageSet& a, const PageSet& b) {
  PageSet all;
  auto left = a.runs().begin(), right = b.runs().begin();
  PageRun current;  // empty at first
  auto add = [&](const PageRun& run) {
    if (run.start > current.end || current.start == current.end) {
      all.append(current.start, current.end);
      current = run;
    } else {
      current.end = std::max(current.end, run.end);
    }
  };
  while (left != a.runs().end() || right != b.runs().end()) {
    bool from_left =
        right == b.runs().end() || (left != a.runs().end() && left->start <= right->start);
    add(from_left ? *left++ : *right++);
  }
  all.append(current.start, current.end);
  return all;
}

PageSet intersect(const PageSet& a, const PageSet& b) {
  PageSet both;
  auto left = a.runs().begin(), right = b.runs().begin();
  while (left != a.runs().end() && right != b.runs().end()) {
    both.append(std::max(left->start, right->start), std::min(left->end, right->end));
    if (left->end <= right->end)
      ++left;
    else
      ++right;
  }
  return both;
}

PageSet subtract(const PageSet& from, const PageSet& what) {
  PageSet rest;
  auto hole = what.runs().begin();
  for (const PageRun& run : from.runs()) {
    std::uint64_t at = run.start;
    while (hole != what.runs().end() && hole->end <= at) ++hole;
    for (auto cut = hole; cut != what.runs().end() && cut->start < run.end; ++cut) {
      rest.append(at, std::min(run.end, std::max(at, cut->start)));
      at = std::max(at, cut->end);
    }
    if (at < run.end) rest.append(at, run.end);
  }
  return rest;
}

Result<PageStore> PageStore::create(const std::filesystem::path& directory) {
  auto file = sys::open_file(directory, O_TMPFILE | O_RDWR, 0600);
  if (file) return PageStore(std::move(*file));
  return fail(std::move(file).error().context("make a place for copied pages"));
}

std::uint32_t PageStore::take_slot() {
  if (free_slots_.empty()) return slots_made_++;
  std::uint32_t slot = free_slots_.back();
  free_slots_.pop_back();
  return slot;
}

Status PageStore::put(std::uint64_t address, std::span<const char> content) {
  assert(address % page_bytes == 0 && content.size() % page_bytes == 0);
  while (!content.empty()) {
    std::uint64_t size =
        std::min<std::uint64_t>(content.size(), chunk_bytes - address % chunk_bytes);
    auto [at, made] = chunks_.try_emplace(address / chunk_bytes);
    Chunk& chunk = at->second;
    if (made) chunk.slot = take_slot();
    std::uint64_t first = address % chunk_bytes / page_bytes;
    for (std::uint64_t i = first; i < first + size / page_bytes; ++i) {
      pages_held_ -= chunk.held[i];
      chunk.held[i] = false;
    }
    BATON_CHECK_CTX(sys::pwrite_all(file_.get(), {content.data(), size}, offset_of(chunk, address)),
                    "keep a copy of memory");
    for (std::uint64_t i = first; i < first + size / page_bytes; ++i) chunk.held[i] = true;
    pages_held_ += size / page_bytes;
    address += size;
    content = content.subspan(size);
  }
  return {};
}

void PageStore::forget(const PageSet& pages) {
  for (const PageRun& run : pages.runs()) {
    auto at = chunks_.lower_bound(run.start / chunk_bytes);
    for (; at != chunks_.end() && at->first * chunk_bytes < run.end; ++at) {
      std::uint64_t base = at->first * chunk_bytes;
      std::uint64_t first = (std::max(run.start, base) - base) / page_bytes;
      std::uint64_t last = (std::min(run.end, base + chunk_bytes) - base) / page_bytes;
      for (std::uint64_t i = first; i < last; ++i) {
        pages_held_ -= at->second.held[i];
        at->second.held[i] = false;
      }
    }
  }
}

Status PageStore::shrink(Chunk& chunk, const std::bitset<chunk_pages>& keep) {
  std::bitset<chunk_pages> dropped = chunk.held & ~keep;
  pages_held_ -= dropped.count();
  chunk.held &= keep;
  for (std::uint64_t i = 0; i < chunk_pages;) {
    if (chunk.held[i]) {
      ++i;
      continue;
    }
    std::uint64_t first = i;
    bool any = false;
    for (; i < chunk_pages && !chunk.held[i]; ++i) any |= dropped[i];
    if (any &&
        ::fallocate(file_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                    static_cast<off_t>(chunk.slot * chunk_bytes + first * page_bytes),
                    static_cast<off_t>((i - first) * page_bytes)) != 0 &&
        errno != EOPNOTSUPP)
      return fail_errno("give back the room of dropped pages");
  }
  return {};
}

Status PageStore::keep_only(const PageSet& pages) {
  auto run = pages.runs().begin();
  for (auto at = chunks_.begin(); at != chunks_.end();) {
    std::uint64_t base = at->first * chunk_bytes;
    std::bitset<chunk_pages> keep;
    while (run != pages.runs().end() && run->end <= base) ++run;
    for (auto r = run; r != pages.runs().end() && r->start < base + chunk_bytes; ++r) {
      std::uint64_t first = (std::max(r->start, base) - base) / page_bytes;
      std::uint64_t last = (std::min(r->end, base + chunk_bytes) - base) / page_bytes;
      for (std::uint64_t i = first; i < last; ++i) keep[i] = true;
    }
    BATON_CHECK(shrink(at->second, keep));
    if (at->second.held.none()) {
      free_slots_.push_back(at->second.slot);
      at = chunks_.erase(at);
    } else {
      ++at;
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

Status PageStore::write_to(int out, const PageSet& pages) const {
  if (!missing(pages).empty())
    return fail(ErrorCode::Internal,
                fmt::format("no copy of memory at {:#x}", missing(pages).runs().front().start));
  std::vector<char> buffer(1 << 20);
  std::size_t used = 0;
  for (const PageRun& run : pages.runs()) {
    for (std::uint64_t at = run.start; at < run.end;) {
      std::uint64_t size = std::min({run.end - at, chunk_bytes - at % chunk_bytes,
                                     static_cast<std::uint64_t>(buffer.size() - used)});
      const Chunk& chunk = chunks_.at(at / chunk_bytes);
      BATON_CHECK(sys::pread_all(file_.get(), buffer.data() + used, size, offset_of(chunk, at)));
      used += size;
      at += size;
      if (used < buffer.size()) continue;
      BATON_CHECK(sys::write_all(out, {buffer.data(), used}));
      used = 0;
    }
  }
  return sys::write_all(out, {buffer.data(), used});
}

Status PageStore::read(std::uint64_t address, void* content) const {
  auto found = chunks_.find(address / chunk_bytes);
  if (found == chunks_.end() || !found->second.held[address % chunk_bytes / page_bytes])
    return fail(ErrorCode::Internal, fmt::format("no copy of memory at {:#x}", address));
  return sys::pread_all(file_.get(), content, page_bytes, offset_of(found->second, address));
}

}  // namespace baton::agent
