#include <lz4.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "store/pack.h"
#include "store/pack_format.h"

namespace baton::store {
namespace {

using namespace pack_format;

constexpr std::size_t kExtentBytes = kExtentPages * kPageBytes;

}  // namespace

Result<std::uint32_t> read_pack_pages(const sys::ByteSource& source) {
  Foot foot;
  if (source.size() >= sizeof foot)
    BATON_CHECK(source.read(&foot, sizeof foot, source.size() - sizeof foot));
  if (source.size() < sizeof foot || foot.magic != kFootMagic || foot.pages > kPackPagesMax)
    return fail(ErrorCode::Damaged, fmt::format("pack {}: cut short", source.name()));
  return foot.pages;
}

struct PackReader::Extents {
  std::vector<Extent> all;
};

PackReader::Index::Index(std::unique_ptr<sys::ByteSource> from)
    : source(std::move(from)), extents(new Extents) {}

PackReader::Index::~Index() = default;

std::unexpected<Error> PackReader::Index::damaged(std::string_view why) const {
  return fail(ErrorCode::Damaged, fmt::format("pack {}: {}", source->name(), why));
}

PackReader::PackReader(std::shared_ptr<const Index> index, std::shared_ptr<char> expanded)
    : index_(std::move(index)), expanded_(std::move(expanded)) {}

PackReader::~PackReader() = default;

Result<std::unique_ptr<PackReader>> PackReader::open(const std::filesystem::path& path) {
  return open(sys::sources_in(path.parent_path()), path.filename());
}

Result<std::unique_ptr<PackReader>> PackReader::open(const sys::OpenSource& sources,
                                                     const std::string& name) {
  auto source = sources(name);
  if (!source && source.error().code() == ErrorCode::NotFound)
    return fail(ErrorCode::Damaged, fmt::format("pack {}: missing", name));
  if (!source) return fail(std::move(source).error());
  auto index = std::make_shared<Index>(std::move(*source));
  BATON_CHECK(index->load());
  return std::unique_ptr<PackReader>(new PackReader(std::move(index), nullptr));
}

std::unique_ptr<PackReader> PackReader::another() const {
  return std::unique_ptr<PackReader>(new PackReader(index_, expanded_));
}

Result<std::unique_ptr<PackReader>> PackReader::expanded() const {
  if (expanded_ || pages() == 0) return another();
  const std::size_t size = pages() * kPageBytes;
  void* const memory =
      ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED)
    return fail_errno(fmt::format("memory for {} MiB of pages", size >> 20));
  std::shared_ptr<char> pages_of(static_cast<char*>(memory),
                                 [size](char* at) { ::munmap(at, size); });
  ::munlock(memory, size);  // whatever holds for the rest of this process
  const auto reader = another();
  BATON_CHECK(reader->read(0, pages(), pages_of.get()));
  return std::unique_ptr<PackReader>(new PackReader(index_, std::move(pages_of)));
}

Status PackReader::Index::load() {
  const std::uint64_t size = source->size();
  if (size < sizeof(Head) + sizeof(Foot)) return damaged("cut short");
  Head head;
  Foot foot;
  BATON_CHECK(source->read(&head, sizeof head, 0));
  BATON_CHECK(source->read(&foot, sizeof foot, size - sizeof foot));
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
  BATON_CHECK(source->read(index.data(), index.size(), foot.index_offset));
  if (hash_whole(index) != foot.index_hash) return damaged("its index has a wrong checksum");
  if (foot.pages == 0) return {};
  extents->all.resize(foot.extents);
  hashes.resize(foot.pages);
  std::memcpy(extents->all.data(), index.data(), foot.extents * sizeof(Extent));
  std::memcpy(hashes.data(), index.data() + foot.extents * sizeof(Extent),
              foot.pages * sizeof(PageHash));
  for (const Extent& extent : extents->all)
    if (extent.stored_bytes > kExtentBytes || extent.offset > foot.index_offset ||
        extent.stored_bytes > foot.index_offset - extent.offset)
      return damaged("an extent lies outside of it");
  return {};
}

std::uint32_t PackReader::extent_pages(std::uint32_t number) const {
  return std::min(kExtentPages, pages() - number * kExtentPages);
}

Status PackReader::read_extent(std::uint32_t number, char* out) {
  const Extent& extent = index_->extents->all[number];
  const std::uint32_t count = extent_pages(number);
  const std::size_t size = count * kPageBytes;
  thread_local std::vector<char> stored;  // as it lies in the file
  if (extent.codec != Codec::Stored) stored.resize(kExtentBytes);
  char* target = extent.codec == Codec::Stored ? out : stored.data();
  if (extent.codec == Codec::Stored && extent.stored_bytes != size)
    return index_->damaged(fmt::format("extent {} has a wrong size", number));
  BATON_CHECK(index_->source->read(target, extent.stored_bytes, extent.offset));
  if (extent.codec != Codec::Stored &&
      (extent.codec != Codec::Lz4 ||
       LZ4_decompress_safe(stored.data(), out, static_cast<int>(extent.stored_bytes),
                           static_cast<int>(size)) != static_cast<int>(size)))
    return index_->damaged(fmt::format("extent {} does not decompress", number));
  return check(number * kExtentPages, count, out);
}

Status PackReader::check(std::uint32_t first, std::uint32_t count, const char* content) const {
  for (std::uint32_t i = 0; i < count; ++i)
    if (hash_page(content + i * kPageBytes) != index_->hashes[first + i])
      return index_->damaged(fmt::format("page {} has a wrong checksum", first + i));
  return {};
}

bool PackReader::has(std::uint32_t first, std::uint32_t count) const {
  return first <= pages() && count <= pages() - first;
}

Result<const char*> PackReader::view(std::uint32_t first, std::uint32_t count, char* buffer) {
  if (!expanded_ || !has(first, count)) {
    BATON_CHECK(read(first, count, buffer));
    return buffer;
  }
  const char* const content = expanded_.get() + first * kPageBytes;
  BATON_CHECK(check(first, count, content));
  return content;
}

Status PackReader::read(std::uint32_t first, std::uint32_t count, char* out) {
  if (!has(first, count)) return index_->damaged("it has fewer pages than wanted");
  if (expanded_) {
    std::memcpy(out, expanded_.get() + first * kPageBytes, count * kPageBytes);
    return check(first, count, out);
  }
  while (count > 0) {
    const std::uint32_t number = first / kExtentPages;
    const std::uint32_t skip = first % kExtentPages;
    const std::uint32_t take = std::min(count, extent_pages(number) - skip);
    if (take == extent_pages(number)) {
      BATON_CHECK(read_extent(number, out));
    } else {
      if (extent_at_ != number) {
        extent_at_ = -1;
        extent_.resize(kExtentBytes);
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
