// The pages of one address space: which ones, and the newest copy of each.
#pragma once

#include <bitset>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
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

PageSet unite(const PageSet& a, const PageSet& b);
PageSet intersect(const PageSet& a, const PageSet& b);
PageSet subtract(const PageSet& from, const PageSet& what);

// The newest copies of an address space's pages, in an unnamed file: memory use is about 90 bytes
// for 2 MiB of pages. Used by one thread at a time.
class PageStore {
 public:
  // The file lives in `directory` (best: not a network disk) and vanishes with this object.
  static Result<PageStore> create(const std::filesystem::path& directory);

  // Whole pages at page-aligned addresses. After an error, none of them is held.
  Status put(std::uint64_t address, std::span<const char> content);
  void forget(const PageSet& pages);
  // Drops all others, and gives their room back.
  Status keep_only(const PageSet& pages);

  PageSet missing(const PageSet& wanted) const;
  std::uint64_t pages_held() const { return pages_held_; }

  // Appends the content of `pages`, in address order, at the file position of `out`. Internal: one
  // of them is not held.
  Status write_to(int out, const PageSet& pages) const;
  // One page into `content` (page_bytes).
  Status read(std::uint64_t address, void* content) const;

 private:
  static constexpr std::uint64_t chunk_pages = 512;
  static constexpr std::uint64_t chunk_bytes = chunk_pages * sys::page_bytes;
  // 2 MiB of addresses; its pages lie in the file in the same order, from slot * chunk_bytes on.
  struct Chunk {
    std::uint32_t slot = 0;
    std::bitset<chunk_pages> held;
  };

  explicit PageStore(Fd file) : file_(std::move(file)) {}
  std::uint32_t take_slot();
  std::uint64_t offset_of(const Chunk& chunk, std::uint64_t address) const {
    return chunk.slot * chunk_bytes + address % chunk_bytes;
  }
  // Drops the pages of one chunk that are not in `keep`, with their room in the file.
  Status shrink(Chunk& chunk, const std::bitset<chunk_pages>& keep);

  Fd file_;
  std::map<std::uint64_t, Chunk> chunks_;  // by address / chunk_bytes
  std::vector<std::uint32_t> free_slots_;
  std::uint32_t slots_made_ = 0;
  std::uint64_t pages_held_ = 0;
};

}  // namespace baton::agent
