#include "agent/engine/page_set.h"

#include <algorithm>
#include <cassert>

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

PageSet unite_disjoint(const PageSet& a, const PageSet& b) {
  PageSet all;
  auto left = a.runs().begin(), right = b.runs().begin();
  while (left != a.runs().end() || right != b.runs().end()) {
    bool from_left =
        right == b.runs().end() || (left != a.runs().end() && left->start < right->start);
    const PageRun& next = from_left ? *left++ : *right++;
    all.append(next.start, next.end);
  }
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

}  // namespace baton::agent
