// A pack: pages of memory in one file that is written once, from front to back, and never changed.
// Its name is the hash of its bytes. docs/store-format.md has the format.
//
// Pages are numbered from 0 in the order in which they were added. They are compressed in extents
// of kExtentPages, so reading one page costs the decompression of its extent.
//
// Thread-compatible: one thread at a time for each object.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "store/hash.h"
#include "store/page_hash.h"
#include "sys/byte_source.h"
#include "sys/file.h"

namespace baton::store {

inline constexpr std::uint32_t kExtentPages = 16;
inline constexpr std::uint32_t kPackPagesMax = 16'384;  // 64 MiB

struct SealedPack {
  std::string hash;
  std::uint32_t pages = 0;
  std::uint64_t bytes = 0;
};

// Writes one pack. It has no name until seal(), so a crash leaves nothing behind. After an error
// the object is good for nothing but destruction.
class PackWriter {
 public:
  static Result<std::unique_ptr<PackWriter>> create(const std::filesystem::path& directory);
  ~PackWriter();

  // At most kPackPagesMax times. `page`: kPageBytes; `hash`: of these.
  Status add(const char* page, const PageHash& hash);
  std::uint32_t pages() const { return static_cast<std::uint32_t>(hashes_.size()); }
  bool full() const { return pages() == kPackPagesMax; }
  // Off: pages from here on are stored as they are, which is quicker.
  void set_compression(bool on) { compress_ = on; }

  // Puts the pack at `directory`/<hash>; fine if that is there already. Not synced.
  Result<SealedPack> seal();

 private:
  struct Extents;
  PackWriter(std::filesystem::path directory, Fd file);
  Status end_extent();
  Status write(const void* data, std::size_t size);
  Status flush();

  const std::filesystem::path directory_;
  Fd file_;
  Hasher hasher_;
  std::vector<char> extent_;  // pages of the extent being filled
  std::vector<char> buffer_;  // not written yet
  sys::EarlyWriteback writeback_;
  std::uint64_t offset_ = 0;  // of the end of buffer_ in the file
  std::vector<PageHash> hashes_;
  std::unique_ptr<Extents> extents_;
  bool compress_ = true;
};

// The number of pages in a pack, from its foot alone. Damaged: it has none.
Result<std::uint32_t> read_pack_pages(const sys::ByteSource& source);

// Reads a pack that may be damaged or made by an enemy: no figure in it is believed before it was
// checked, and every page handed out has the content that its hash names.
class PackReader {
 public:
  // Damaged: not a whole pack.
  static Result<std::unique_ptr<PackReader>> open(const std::filesystem::path& path);
  static Result<std::unique_ptr<PackReader>> open(const sys::OpenSource& sources,
                                                  const std::string& name);
  ~PackReader();

  // The same pack with all of its pages in memory, pages() * kPageBytes, as they are: each is
  // compared with its hash still. The memory is that of all readers that another() makes of it.
  Result<std::unique_ptr<PackReader>> expanded() const;

  bool is_expanded() const { return expanded_ != nullptr; }

  // A reader of the same pack for another thread. What open() read and checked is shared.
  std::unique_ptr<PackReader> another() const;

  std::uint32_t pages() const { return static_cast<std::uint32_t>(index_->hashes.size()); }
  const PageHash& hash(std::uint32_t page) const { return index_->hashes[page]; }
  // Pages [first, first + count) into `out` (count * kPageBytes). Damaged: names the pack.
  Status read(std::uint32_t first, std::uint32_t count, char* out);
  // The same without a copy where there is one in memory already, else in `buffer`; good as long as
  // both are.
  Result<const char*> view(std::uint32_t first, std::uint32_t count, char* buffer);

 private:
  struct Extents;
  struct Index {
    explicit Index(std::unique_ptr<sys::ByteSource> from);
    ~Index();
    Status load();
    std::unexpected<Error> damaged(std::string_view why) const;

    const std::unique_ptr<sys::ByteSource> source;
    std::vector<PageHash> hashes;
    const std::unique_ptr<Extents> extents;
  };
  PackReader(std::shared_ptr<const Index> index, std::shared_ptr<char> expanded);
  bool has(std::uint32_t first, std::uint32_t count) const;
  Status read_extent(std::uint32_t number, char* out);
  Status check(std::uint32_t first, std::uint32_t count, const char* content) const;
  std::uint32_t extent_pages(std::uint32_t number) const;

  const std::shared_ptr<const Index> index_;
  const std::shared_ptr<char> expanded_;  // may be null
  // Empty until it is needed: there may be hundreds of readers.
  std::vector<char> extent_;     // the last one of which only a part was wanted …
  std::int64_t extent_at_ = -1;  // … and its number
};

}  // namespace baton::store
