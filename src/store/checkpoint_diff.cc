#include "store/checkpoint_diff.h"

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <optional>

#include "store/hash.h"
#include "store/pack.h"
#include "store/tree_archive.h"
#include "store/tree_archive_format.h"

namespace baton::store {
namespace {

constexpr std::size_t kMaxEntries = 1 << 20;
constexpr std::size_t kPartBytes = 1 << 20;

// The hashes of the pages of one map.
class Pages {
 public:
  Pages(const PageMap& map, const sys::OpenSource& packs)
      : map_(map), packs_(packs), readers_(map.packs.size()) {}

  // Of the page `skip` pages into the run.
  Result<PageHash> hash(const MapRun& run, std::uint64_t skip) {
    if (run.pack == kZeroPages) return zero_page_hash();
    auto& reader = readers_[run.pack];
    if (!reader) {
      BATON_TRY(reader, PackReader::open(packs_, map_.packs[run.pack].hash));
    }
    const auto page = static_cast<std::uint32_t>(run.first + skip);
    if (page >= reader->pages())
      return fail(ErrorCode::Damaged,
                  fmt::format("pack {} has no page {}", map_.packs[run.pack].hash, page));
    return reader->hash(page);
  }
  bool is_same_place(const MapRun& run, const PageMap& other, const MapRun& other_run) const {
    if (run.pack == kZeroPages || other_run.pack == kZeroPages) return run.pack == other_run.pack;
    return map_.packs[run.pack].hash == other.packs[other_run.pack].hash;
  }

 private:
  const PageMap& map_;
  const sys::OpenSource& packs_;
  std::vector<std::unique_ptr<PackReader>> readers_;
};

std::uint64_t end_of(const MapRun& run) { return run.address + run.pages * kPageBytes; }

// Compares `pages` pages of two runs that begin at the same address.
Status diff_range(Pages& a, const PageMap& map_b, Pages& b, const MapRun& run_a,
                  std::uint64_t skip_a, const MapRun& run_b, std::uint64_t skip_b,
                  std::uint64_t pages, PageDiff& diff) {
  const bool zeroes = run_a.pack == kZeroPages;
  if (a.is_same_place(run_a, map_b, run_b) &&
      (zeroes || run_a.first + skip_a == run_b.first + skip_b)) {
    diff.same += pages;
    return {};
  }
  for (std::uint64_t page = 0; page < pages; ++page) {
    BATON_TRY(const PageHash hash_a, a.hash(run_a, skip_a + page));
    BATON_TRY(const PageHash hash_b, b.hash(run_b, skip_b + page));
    ++(hash_a == hash_b ? diff.same : diff.changed);
  }
  return {};
}

struct ReaderFree {
  void operator()(archive* reader) const { archive_read_free(reader); }
};

// An archive's bytes, part by part.
struct Feed {
  explicit Feed(const sys::ByteSource& from) : source(from), part(kPartBytes, '\0') {}

  static la_ssize_t next(archive* reader, void* data, const void** part) {
    auto& feed = *static_cast<Feed*>(data);
    const std::size_t size = std::min<std::uint64_t>(kPartBytes, feed.source.size() - feed.at);
    feed.status = feed.source.read(feed.part.data(), size, feed.at);
    if (!feed.status) {
      archive_set_error(reader, EIO, "%s", feed.status.error().message().c_str());
      return ARCHIVE_FATAL;
    }
    feed.at += size;
    *part = feed.part.data();
    return static_cast<la_ssize_t>(size);
  }

  const sys::ByteSource& source;
  std::string part;
  std::uint64_t at = 0;
  Status status;
};

// Of a file's content as it is in the archive.
Result<std::string> hash_content(archive* reader) {
  Hasher hasher;
  for (;;) {
    const void* data = nullptr;
    std::size_t size = 0;
    la_int64_t offset = 0;
    const int result = archive_read_data_block(reader, &data, &size, &offset);
    if (result == ARCHIVE_EOF) return hasher.hex();
    if (result != ARCHIVE_OK)
      return fail(ErrorCode::Damaged,
                  archive_error_string(reader) ? archive_error_string(reader) : "it can't be read");
    hasher.update({reinterpret_cast<const char*>(&offset), sizeof offset});
    hasher.update({static_cast<const char*>(data), size});
  }
}

// Unset: the content is in the archive.
std::optional<std::size_t> content_number(archive_entry* entry) {
  const char* name = nullptr;
  const void* value = nullptr;
  std::size_t size = 0;
  archive_entry_xattr_reset(entry);
  while (archive_entry_xattr_next(entry, &name, &value, &size) == ARCHIVE_OK)
    if (std::string_view(name) == kContentAttribute)
      return std::strtoull(std::string(static_cast<const char*>(value), size).c_str(), nullptr, 10);
  return {};
}

std::string text(const char* value) { return value ? value : ""; }

}  // namespace

Result<PageDiff> diff_pages(const PageMap& a, const sys::OpenSource& packs_a, const PageMap& b,
                            const sys::OpenSource& packs_b) {
  PageDiff diff;
  Pages pages_a(a, packs_a), pages_b(b, packs_b);
  auto run_a = a.runs.begin();
  auto run_b = b.runs.begin();
  std::uint64_t at = 0;  // everything before is done
  while (run_a != a.runs.end() || run_b != b.runs.end()) {
    const bool has_a = run_a != a.runs.end(), has_b = run_b != b.runs.end();
    const std::uint64_t start_a = has_a ? std::max(run_a->address, at) : UINT64_MAX;
    const std::uint64_t start_b = has_b ? std::max(run_b->address, at) : UINT64_MAX;
    at = std::min(start_a, start_b);
    // To where what is at `at` stays the same: a alone, b alone, or both.
    std::uint64_t end = UINT64_MAX;
    if (has_a) end = std::min(end, start_a > at ? start_a : end_of(*run_a));
    if (has_b) end = std::min(end, start_b > at ? start_b : end_of(*run_b));
    const std::uint64_t pages = (end - at) / kPageBytes;
    if (start_a != start_b)
      (start_a == at ? diff.vanished : diff.appeared) += pages;
    else
      BATON_CHECK(diff_range(pages_a, b, pages_b, *run_a, (at - run_a->address) / kPageBytes,
                             *run_b, (at - run_b->address) / kPageBytes, pages, diff));
    at = end;
    if (has_a && end_of(*run_a) <= at) ++run_a;
    if (has_b && end_of(*run_b) <= at) ++run_b;
  }
  return diff;
}

Result<std::map<std::string, TreeEntry>> list_tree(const sys::ByteSource& source,
                                                   std::span<const FileContent> contents) {
  std::map<std::string, TreeEntry> entries;
  std::unique_ptr<archive, ReaderFree> reader(archive_read_new());
  archive_read_support_format_tar(reader.get());
  auto damaged = [&](std::string_view why) {
    return fail(ErrorCode::Damaged, fmt::format("{}: {}", source.name(), why));
  };
  Feed feed(source);
  if (archive_read_open(reader.get(), &feed, nullptr, Feed::next, nullptr) != ARCHIVE_OK)
    return damaged("it can't be read");
  tree_archive::Entry entry(archive_entry_new());
  for (;;) {
    const int result = archive_read_next_header2(reader.get(), entry.get());
    if (result == ARCHIVE_EOF) return entries;
    if (result != ARCHIVE_OK)
      return damaged(feed.status ? "it is not whole" : feed.status.error().message());
    const mode_t type = archive_entry_filetype(entry.get());
    const std::string name = text(archive_entry_pathname(entry.get()));
    if (S_ISDIR(type)) continue;
    if (entries.size() >= kMaxEntries) return damaged("it has too many entries");
    auto content = hash_content(reader.get());
    if (!content) return damaged(content.error().message());
    TreeEntry& found = entries[name];
    found.bytes =
        static_cast<std::uint64_t>(std::max<la_int64_t>(archive_entry_size(entry.get()), 0));
    if (auto number = content_number(entry.get())) {
      if (*number >= contents.size()) return damaged("the content of a file is missing");
      found.bytes = contents[*number].size;
      for (const std::string& chunk : contents[*number].chunks) *content += " " + chunk;
    }
    found.state =
        fmt::format("{:o} {} {} {} {}.{} {} {} {}", archive_entry_mode(entry.get()),
                    archive_entry_uid(entry.get()), archive_entry_gid(entry.get()), found.bytes,
                    archive_entry_mtime(entry.get()), archive_entry_mtime_nsec(entry.get()),
                    text(archive_entry_symlink(entry.get())),
                    text(archive_entry_hardlink(entry.get())), *content);
  }
}

}  // namespace baton::store
