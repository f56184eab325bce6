#include <fcntl.h>
#include <lz4.h>

#include <algorithm>
#include <cstring>

#include "store/pack.h"
#include "store/pack_format.h"
#include "sys/file.h"

namespace baton::store {
namespace {

using namespace pack_format;

constexpr std::size_t kExtentBytes = kExtentPages * kPageBytes;

}  // namespace

Result<std::uint32_t> read_pack_pages(const std::filesystem::path& path) {
  BATON_TRY(Fd file, sys::open_file(path, O_RDONLY | O_NOFOLLOW));
  struct stat info {};
  if (::fstat(file.get(), &info) != 0) return fail_errno(path.string());
  const auto size = static_cast<std::uint64_t>(info.st_size);
  Foot foot;
  if (size >= sizeof foot)
    BATON_CHECK_CTX(sys::pread_all(file.get(), &foot, sizeof foot, size - sizeof foot),
                    path.string());
  if (size < sizeof foot || foot.magic != kFootMagic || foot.pages > kPackPagesMax)
    return fail(ErrorCode::Damaged, fmt::format("pack {}: cut short", path.string()));
  return foot.pages;
}

struct PackReader::Extents {
  std::vector<Extent> all;
};

PackReader::PackReader(std::filesystem::path path)
    : path_(std::move(path)), extents_(new Extents), stored_(kExtentBytes), extent_(kExtentBytes) {}

PackReader::~PackReader() = default;

std::unexpected<Error> PackReader::damaged(std::string_view why) const {
  return fail(ErrorCode::Damaged, fmt::format("pack {}: {}", path_.string(), why));
}

Result<std::unique_ptr<PackReader>> PackReader::open(const std::filesystem::path& path) {
  std::unique_ptr<PackReader> reader(new PackReader(path));
  auto file = sys::open_file(path, O_RDONLY | O_NOFOLLOW);
  if (!file && file.error().code() == ErrorCode::NotFound) return reader->damaged("missing");
  if (!file) return fail(std::move(file).error());
  reader->file_ = std::move(*file);
  BATON_CHECK(reader->load_index());
  return reader;
}

Status PackReader::load_index() {
  struct stat info {};
  if (::fstat(file_.get(), &info) != 0) return fail_errno(path_.string());
  const auto size = static_cast<std::uint64_t>(info.st_size);
  if (!S_ISREG(info.st_mode) || size < sizeof(Head) + sizeof(Foot)) return damaged("cut short");
  Head head;
  Foot foot;
  BATON_CHECK_CTX(sys::pread_all(file_.get(), &head, sizeof head, 0), path_.string());
  BATON_CHECK_CTX(sys::pread_all(file_.get(), &foot, sizeof foot, size - sizeof foot),
                  path_.string());
  if (head.magic != kHeadMagic || foot.magic != kFootMagic)
    return damaged("not a pack, or cut short");
  if (head.version != kVersion || head.page_bytes != kPageBytes)
    return damaged("of a format that this version does not know");
  if (foot.pages > kPackPagesMax || foot.extents != (foot.pages + kExtentPages - 1) / kExtentPages)
    return damaged("its figures contradict each other");
  const std::uint64_t index_bytes =
      std::uint64_t{foot.extents} * sizeof(Extent) + std::uint64_t{foot.pages} * sizeof(PageHash);
  if (foot.index_offset < sizeof(Head) ||
      foot.index_offset != size - sizeof foot - std::min(index_bytes, size - sizeof foot))
    return damaged("its index is not where it belongs");
  std::string index(index_bytes, '\0');
  BATON_CHECK_CTX(sys::pread_all(file_.get(), index.data(), index.size(), foot.index_offset),
                  path_.string());
  if (hash_whole(index) != foot.index_hash) return damaged("its index has a wrong checksum");
  extents_->all.resize(foot.extents);
  hashes_.resize(foot.pages);
  std::memcpy(extents_->all.data(), index.data(), foot.extents * sizeof(Extent));
  std::memcpy(hashes_.data(), index.data() + foot.extents * sizeof(Extent),
              foot.pages * sizeof(PageHash));
  for (const Extent& extent : extents_->all)
    if (extent.stored_bytes > kExtentBytes || extent.offset > foot.index_offset ||
        extent.stored_bytes > foot.index_offset - extent.offset)
      return damaged("an extent lies outside of it");
  return {};
}

std::uint32_t PackReader::extent_pages(std::uint32_t number) const {
  return std::min(kExtentPages, pages() - number * kExtentPages);
}

Status PackReader::read_extent(std::uint32_t number, char* out) {
  const Extent& extent = extents_->all[number];
  const std::uint32_t count = extent_pages(number);
  const std::size_t size = count * kPageBytes;
  char* target = extent.codec == Codec::Stored ? out : stored_.data();
  if (extent.codec == Codec::Stored && extent.stored_bytes != size)
    return damaged(fmt::format("extent {} has a wrong size", number));
  BATON_CHECK_CTX(sys::pread_all(file_.get(), target, extent.stored_bytes, extent.offset),
                  path_.string());
  if (extent.codec != Codec::Stored &&
      (extent.codec != Codec::Lz4 ||
       LZ4_decompress_safe(stored_.data(), out, static_cast<int>(extent.stored_bytes),
                           static_cast<int>(size)) != static_cast<int>(size)))
    return damaged(fmt::format("extent {} does not decompress", number));
  for (std::uint32_t i = 0; i < count; ++i)
    if (hash_page(out + i * kPageBytes) != hashes_[number * kExtentPages + i])
      return damaged(fmt::format("page {} has a wrong checksum", number * kExtentPages + i));
  return {};
}

Status PackReader::read(std::uint32_t first, std::uint32_t count, char* out) {
  if (first > pages() || count > pages() - first) return damaged("it has fewer pages than wanted");
  while (count > 0) {
    const std::uint32_t number = first / kExtentPages;
    const std::uint32_t skip = first % kExtentPages;
    const std::uint32_t take = std::min(count, extent_pages(number) - skip);
    if (take == extent_pages(number)) {
      BATON_CHECK(read_extent(number, out));
    } else {
      if (extent_at_ != number) {
        extent_at_ = -1;
        BATON_CHECK(read_extent(number, extent_.data()));
        extent_at_ = number;
      }
      std::memcpy(out, extent_.data() + skip * kPageBytes, take * kPageBytes);
    }
    first += take;
    count -= take;
    out += take * kPageBytes;
  }
  return {};
}

}  // namespace baton::store
