#include <fcntl.h>
#include <lz4.h>
#include <unistd.h>

#include <cassert>

#include "base/fault.h"
#include "store/pack.h"
#include "store/pack_format.h"
#include "sys/file.h"

namespace baton::store {
namespace {

using namespace pack_format;

constexpr std::size_t kExtentBytes = kExtentPages * kPageBytes;
constexpr std::size_t kBufferBytes = 1 << 20;

}  // namespace

struct PackWriter::Extents {
  std::vector<Extent> all;
};

PackWriter::PackWriter(std::filesystem::path directory, Fd file)
    : directory_(std::move(directory)), file_(std::move(file)), extents_(new Extents) {
  extent_.reserve(kExtentBytes);
  buffer_.reserve(kBufferBytes);
}

PackWriter::~PackWriter() = default;

Result<std::unique_ptr<PackWriter>> PackWriter::create(const std::filesystem::path& directory) {
  auto file = sys::open_file(directory, O_TMPFILE | O_RDWR, 0600);
  if (!file) return fail(std::move(file).error().context("make a pack of pages"));
  std::unique_ptr<PackWriter> writer(new PackWriter(directory, std::move(*file)));
  Head head;
  BATON_CHECK(writer->write(&head, sizeof head));
  return writer;
}

Status PackWriter::add(const char* page, const PageHash& hash) {
  assert(!full());
  extent_.insert(extent_.end(), page, page + kPageBytes);
  hashes_.push_back(hash);
  return extent_.size() == kExtentBytes ? end_extent() : Status();
}

Status PackWriter::end_extent() {
  if (extent_.empty()) return {};
  const int size = static_cast<int>(extent_.size());
  char compressed[LZ4_COMPRESSBOUND(kExtentBytes)];
  // What saves less than a sixteenth is not worth its decompression.
  int count = 0;
  if (compress_) count = LZ4_compress_default(extent_.data(), compressed, size, size - size / 16);
  Extent extent{offset_, static_cast<std::uint32_t>(count > 0 ? count : size),
                count > 0 ? Codec::Lz4 : Codec::Stored};
  extents_->all.push_back(extent);
  auto written = write(count > 0 ? compressed : extent_.data(), extent.stored_bytes);
  extent_.clear();
  return written;
}

Status PackWriter::write(const void* data, std::size_t size) {
  if (buffer_.size() + size > kBufferBytes) BATON_CHECK(flush());
  const char* bytes = static_cast<const char*>(data);
  buffer_.insert(buffer_.end(), bytes, bytes + size);
  offset_ += size;
  return {};
}

Status PackWriter::flush() {
  BATON_CHECK(fault("pack.write"));
  hasher_.update({buffer_.data(), buffer_.size()});
  BATON_CHECK_CTX(sys::write_all(file_.get(), {buffer_.data(), buffer_.size()}),
                  "keep a copy of memory");
  writeback_.written(file_.get(), buffer_.size());
  buffer_.clear();
  return {};
}

Result<SealedPack> PackWriter::seal() {
  BATON_CHECK(end_extent());
  Foot foot;
  foot.index_offset = offset_;
  foot.pages = pages();
  foot.extents = static_cast<std::uint32_t>(extents_->all.size());
  auto bytes_of = [](const auto& figures) {
    return std::string_view(reinterpret_cast<const char*>(figures.data()),
                            figures.size() * sizeof figures[0]);
  };
  std::string index(bytes_of(extents_->all));
  index += bytes_of(hashes_);
  foot.index_hash = hash_whole(index);
  for (std::size_t at = 0; at < index.size(); at += kBufferBytes / 2)
    BATON_CHECK(write(index.data() + at, std::min(kBufferBytes / 2, index.size() - at)));
  BATON_CHECK(write(&foot, sizeof foot));
  BATON_CHECK(flush());
  SealedPack pack{hasher_.hex(), pages(), offset_};
  auto path = directory_ / pack.hash;
  auto self = fmt::format("/proc/self/fd/{}", file_.get());
  if (::linkat(AT_FDCWD, self.c_str(), AT_FDCWD, path.c_str(), AT_SYMLINK_FOLLOW) != 0 &&
      errno != EEXIST)
    return fail_errno(fmt::format("name a pack {}", path.string()));
  return pack;
}

}  // namespace baton::store
