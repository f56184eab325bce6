#include "store/file_content.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/nesting.h"
#include "store/hash.h"
#include "store/whole_json.h"
#include "sys/file.h"

namespace baton::store {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t block_bytes = 4096;  // the smallest hole
constexpr std::uint64_t kMaxJsonBytes = 64u << 20;
constexpr std::uint64_t size_max = std::uint64_t{1} << 44;

std::uint64_t chunks_of(std::uint64_t size) {
  return (size + kFileChunkBytes - 1) / kFileChunkBytes;
}

Status read_chunk(const fs::path& path, const std::string& hash, std::uint64_t bytes,
                  std::string& data) {
  auto file = sys::open_file(path, O_RDONLY | O_NOFOLLOW);
  if (!file && file.error().code() == ErrorCode::NotFound)
    return fail(ErrorCode::Damaged, fmt::format("{} is missing", path.string()));
  if (!file) return fail(std::move(file).error());
  struct stat info {};
  if (::fstat(file->get(), &info) != 0) return fail_errno(path.string());
  data.resize(bytes);
  const bool fits = static_cast<std::uint64_t>(info.st_size) == bytes;
  if (fits) BATON_CHECK_CTX(sys::pread_all(file->get(), data.data(), bytes, 0), path.string());
  if (!fits || hash_bytes(data) != hash)
    return fail(ErrorCode::Damaged, fmt::format("{} is damaged", path.string()));
  return {};
}

// Blocks of zeroes are left out.
Status write_islands(int file, std::string_view data, std::uint64_t offset) {
  for (std::size_t at = 0; at < data.size();) {
    std::size_t end = at;
    while (end < data.size() && !is_zero(data.substr(end, block_bytes))) end += block_bytes;
    end = std::min(end, data.size());
    if (end > at) BATON_CHECK(sys::pwrite_all(file, data.substr(at, end - at), offset + at));
    at = std::min(end + block_bytes, data.size());
  }
  return {};
}

}  // namespace

bool is_zero(std::string_view data) {
  return data.empty() ||
         (data[0] == 0 && std::memcmp(data.data(), data.data() + 1, data.size() - 1) == 0);
}

std::uint64_t chunk_bytes(const FileContent& content, std::size_t number) {
  return std::min(kFileChunkBytes, content.size - number * kFileChunkBytes);
}

bool is_well_formed(const FileContent& content) {
  return content.size <= size_max && content.chunks.size() == chunks_of(content.size) &&
         std::ranges::all_of(content.chunks,
                             [](const auto& hash) { return hash.empty() || is_hash(hash); });
}

Status write_content(const FileContent& content, const fs::path& folder, int file) {
  if (!is_well_formed(content)) return fail(ErrorCode::Damaged, "its table of chunks is wrong");
  std::string data;
  for (std::size_t i = 0; i < content.chunks.size(); ++i) {
    const std::string& hash = content.chunks[i];
    const std::uint64_t offset = i * kFileChunkBytes;
    if (hash.empty() && content.sparse) continue;
    if (hash.empty())
      data.assign(chunk_bytes(content, i), '\0');
    else
      BATON_CHECK(read_chunk(folder / hash, hash, chunk_bytes(content, i), data));
    BATON_CHECK(content.sparse ? write_islands(file, data, offset)
                               : sys::pwrite_all(file, data, offset));
  }
  if (::ftruncate(file, static_cast<off_t>(content.size)) != 0) return fail_errno("truncate");
  return {};
}

std::vector<FileContent> contents_from(const nlohmann::json& tree) {
  std::vector<FileContent> contents;
  for (const auto& entry : tree.value("contents", nlohmann::json::array())) {
    FileContent& content = contents.emplace_back();
    entry.at("size").get_to(content.size);
    entry.at("sparse").get_to(content.sparse);
    entry.at("chunks").get_to(content.chunks);
    if (!is_well_formed(content)) throw std::runtime_error("a table of chunks is wrong");
  }
  return contents;
}

Result<std::map<std::string, std::vector<FileContent>>> read_contents(
    const sys::ByteSource& checkpoint_json) {
  BATON_TRY(const std::string text, sys::read_source(checkpoint_json, kMaxJsonBytes));
  std::map<std::string, std::vector<FileContent>> contents;
  try {
    if (nests_deeper(text)) throw std::runtime_error("it nests too deeply");
    const auto description = parse_whole_json(text);  // outlives the loop over its part
    for (const auto& tree : description.at("trees"))
      contents[tree.at("archive").get<std::string>()] = contents_from(tree);
  } catch (const std::exception& problem) {
    return fail(ErrorCode::Damaged, fmt::format("{}: {}", checkpoint_json.name(), problem.what()));
  }
  return contents;
}

}  // namespace baton::store
