// Sets of pages of one address space.
#pragma once

#include <cstdint>
#include <vector>

#include "sys/pagemap.h"

namespace baton::agent {

// Neighbouring pages: [start, end).
struct PageRun {
  std::uint64_t start = 0;
  std::uint64_t end = 0;

  std::uint64_t pages() const { return (end - start) / sys::page_bytes; }
  friend bool operator==(const PageRun&, const PageRun&) = default;
};

// Ascending, disjoint, neighbours joined.
class PageSet {
 public:
  PageSet() = default;
  // Appends behind all that is there; joins with the last run where they meet. Must not go back.
  void append(std::uint64_t start, std::uint64_t end);

  const std::vector<PageRun>& runs() const { return runs_; }
  bool empty() const { return runs_.empty(); }
  std::uint64_t pages() const;
  void clear() { runs_.clear(); }

 private:
  std::vector<PageRun> runs_;
};

// Of sets that have no page in common.
PageSet unite_disjoint(const PageSet& a, const PageSet& b);
PageSet intersect(const PageSet& a, const PageSet& b);
PageSet subtract(const PageSet& from, const PageSet& what);

}  // namespace baton::agent
