#include "agent/engine/chunk_folder.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <memory>

#include "agent/engine/base_files.h"
#include "base/log.h"
#include "store/hash.h"
#include "sys/file.h"

namespace baton::agent {

namespace fs = std::filesystem;
using store::FileContent;
using store::kFileChunkBytes;

Result<std::unique_ptr<ChunkFolder>> ChunkFolder::create(fs::path directory) {
  BATON_CHECK(sys::remove_tree(directory));
  BATON_CHECK(sys::make_directories(directory, 0700));
  return std::unique_ptr<ChunkFolder>(new ChunkFolder(std::move(directory)));
}

Result<FileContent> ChunkFolder::add(int file, const struct stat& info,
                                     const std::function<bool()>& go_on) {
  FileContent content;
  content.size = static_cast<std::uint64_t>(info.st_size);
  content.sparse = info.st_blocks * 512 < info.st_size;
  const auto buffer = std::make_unique_for_overwrite<char[]>(
      std::min<std::uint64_t>(content.size, kFileChunkBytes));
  for (std::uint64_t at = 0; at < content.size; at += kFileChunkBytes) {
    if (go_on && !go_on()) return fail(ErrorCode::Cancelled, "no longer wanted");
    const std::size_t size = store::chunk_bytes(content, content.chunks.size());
    std::string& hash = content.chunks.emplace_back();
    if (content.sparse) {
      const off_t data = ::lseek(file, static_cast<off_t>(at), SEEK_DATA);
      if ((data < 0 && errno == ENXIO) || data >= static_cast<off_t>(at + size)) continue;
    }
    BATON_CHECK(sys::pread_all(file, buffer.get(), size, at));
    const std::string_view chunk(buffer.get(), size);
    if (store::is_zero(chunk)) continue;
    hash = store::hash_bytes(chunk);
    BATON_CHECK(store(hash, chunk));
  }
  return content;
}

Status ChunkFolder::store(const std::string& hash, std::string_view data) {
  if (hashes_.contains(hash)) return {};
  const fs::path aside = directory_ / ".new";
  auto write = [&]() -> Status {
    BATON_TRY(Fd file, sys::open_file(aside, O_WRONLY | O_CREAT | O_TRUNC, 0600));
    BATON_CHECK_CTX(sys::write_all(file.get(), data), "copy a private file");
    if (::rename(aside.c_str(), (directory_ / hash).c_str()) != 0)
      return fail_errno(fmt::format("rename {}", aside.string()));
    return {};
  };
  auto written = write();
  if (!written) {
    ::unlink(aside.c_str());
    return written;
  }
  new_bytes_ += data.size();
  hashes_.insert(hash);
  return {};
}

Status ChunkFolder::adopt(const fs::path& file, const std::string& hash) {
  if (!store::is_hash(hash) || hashes_.contains(hash)) return {};
  BATON_CHECK(link_or_copy(file, directory_ / hash));
  hashes_.insert(hash);
  return {};
}

Status ChunkFolder::link(const std::set<std::string>& hashes, const fs::path& folder) const {
  for (const std::string& hash : hashes)
    BATON_CHECK(link_or_copy(directory_ / hash, folder / hash));
  return {};
}

void ChunkFolder::keep_only(const std::set<std::string>& hashes) {
  std::erase_if(hashes_, [&](const std::string& hash) {
    if (hashes.contains(hash)) return false;
    if (::unlink((directory_ / hash).c_str()) != 0)
      spdlog::warn("remove {}: {}", (directory_ / hash).string(), std::strerror(errno));
    return true;
  });
}

void collect(const FileContent& content, std::set<std::string>& hashes) {
  for (const std::string& hash : content.chunks)
    if (!hash.empty()) hashes.insert(hash);
}

}  // namespace baton::agent
