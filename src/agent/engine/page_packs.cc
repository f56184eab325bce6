#include "agent/engine/page_packs.h"

#include <unistd.h>

#include "agent/engine/base_files.h"
#include "sys/file.h"

namespace baton::agent {

namespace fs = std::filesystem;

Result<std::unique_ptr<PagePacks>> PagePacks::create(fs::path directory) {
  BATON_CHECK(sys::remove_tree(directory));
  BATON_CHECK(sys::make_directories(directory, 0700));
  return std::unique_ptr<PagePacks>(new PagePacks(std::move(directory)));
}

Result<PageLocation> PagePacks::add(const char* page, const store::PageHash& hash) {
  if (broken_) return fail(ErrorCode::Internal, "earlier copies of memory could not be kept");
  broken_ = true;  // unless all goes well
  if (!writer_) {
    BATON_TRY(writer_, store::PackWriter::create(directory_));
    writer_->set_compression(compress_);
    open_ = next_++;
    packs_[open_] = {};
  }
  PageLocation location{open_, writer_->pages()};
  BATON_CHECK(writer_->add(page, hash));
  ++added_.pages;
  packs_[open_].pages = writer_->pages();
  broken_ = false;
  if (writer_->full()) BATON_CHECK(seal());
  return location;
}

void PagePacks::set_compression(bool on) {
  compress_ = on;
  if (writer_) writer_->set_compression(on);
}

Status PagePacks::seal() {
  if (!writer_) return {};
  broken_ = true;
  auto writer = std::move(writer_);
  BATON_TRY(auto sealed, writer->seal());
  broken_ = false;
  packs_[open_] = {sealed.hash, sealed.pages};
  added_.bytes += sealed.bytes;
  return {};
}

Result<std::uint32_t> PagePacks::adopt(const fs::path& file, const std::string& hash,
                                       std::uint32_t pages) {
  for (const auto& [number, pack] : packs_)
    if (pack.hash == hash) return number;
  Pack pack{hash, pages};
  BATON_CHECK(link_or_copy(file, path(pack)));
  packs_[next_] = std::move(pack);
  return next_++;
}

Status PagePacks::drop(std::uint32_t number) {
  auto at = packs_.find(number);
  if (at == packs_.end() || at->second.hash.empty()) return {};
  // Two numbers may stand for the same content.
  bool shared = false;
  for (const auto& [other, pack] : packs_)
    shared |= other != number && pack.hash == at->second.hash;
  if (!shared && ::unlink(path(at->second).c_str()) != 0 && errno != ENOENT)
    return fail_errno(fmt::format("remove {}", path(at->second).string()));
  packs_.erase(at);
  return {};
}

}  // namespace baton::agent
