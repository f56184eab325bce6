// What differs between two checkpoints: pages of memory that was tracked, and private files.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "store/file_content.h"
#include "store/page_map.h"
#include "sys/byte_source.h"

namespace baton::store {

struct PageDiff {  // in pages
  std::uint64_t same = 0;
  std::uint64_t changed = 0;   // in both, with other content
  std::uint64_t appeared = 0;  // in the second alone
  std::uint64_t vanished = 0;

  friend bool operator==(const PageDiff&, const PageDiff&) = default;
};

// The content of pages is compared by the hashes that packs have of them; no page is read.
// `packs_a`, `packs_b`: the packs of each by their hashes. Damaged: names the pack.
Result<PageDiff> diff_pages(const PageMap& a, const sys::OpenSource& packs_a, const PageMap& b,
                            const sys::OpenSource& packs_b);

// One entry of a private tree's archive.
struct TreeEntry {
  std::uint64_t bytes = 0;
  std::string state;  // equal if type, content, owner, mode and time are
};
// By their paths; folders are left out. `contents`: of the archive's large files, which are not in
// it (file_content.h). The archive is not trusted: Damaged.
Result<std::map<std::string, TreeEntry>> list_tree(const sys::ByteSource& archive,
                                                   std::span<const FileContent> contents = {});

}  // namespace baton::store
