// What a large file holds, cut into chunks that are files named by their content's hash. What two
// files, or two checkpoints, have in common is kept once, and of a file that changed in one place
// only that place is new.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "base/result.h"
#include "sys/byte_source.h"

namespace baton::store {

// All chunks of a file but the last have this size.
inline constexpr std::uint64_t kFileChunkBytes = 4u << 20;

struct FileContent {
  std::uint64_t size = 0;
  bool sparse = false;              // its zeroes are holes
  std::vector<std::string> chunks;  // their hashes (hash.h); "": nothing but zeroes

  friend bool operator==(const FileContent&, const FileContent&) = default;
};

// Of the chunk with this number; nothing else agrees with the size of a file.
std::uint64_t chunk_bytes(const FileContent& content, std::size_t number);
// Whether its chunks are as many as its size says, and named by hashes.
bool is_well_formed(const FileContent& content);

// Writes the whole of it into an empty file. Damaged: a chunk is not in `folder` or is not what its
// name says.
Status write_content(const FileContent& content, const std::filesystem::path& folder, int file);

// The `contents` of a tree in checkpoint.json (docs/store-format.md). Throws std::exception when
// they are not in their format.
std::vector<FileContent> contents_from(const nlohmann::json& tree);

// What checkpoint.json says of the large files in each tree, by the name of the tree's archive.
// Damaged: it is not in its format.
Result<std::map<std::string, std::vector<FileContent>>> read_contents(
    const sys::ByteSource& checkpoint_json);

bool is_zero(std::string_view data);

}  // namespace baton::store
