// A checkpoint's table of contents, `manifest.json` in its directory:
//
//   {"body": {"format": 1, "job": 7, "number": 3, "info": {...},
//             "files": [{"path": "images/core-2.img", "size": 4096, "mode": 384,
//                        "xxh3_128": "..."}]},
//    "body_xxh3_128": "..."}
//
// body_xxh3_128 is the hash of the body as written there (compact, keys sorted), so damage to the
// table itself is found as well. `info` is its writer's affair: any JSON object.
//
// In an encrypted checkpoint it is `manifest.sealed`, encrypted like all else, and each file has
// "sealed": which encrypted file (store/sealed_file.h) it is.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/ids.h"
#include "base/result.h"

namespace baton::store {

constexpr const char* kManifestName = "manifest.json";
constexpr const char* kSealedManifestName = "manifest.sealed";
// Folders of a checkpoint whose files are named by their content's hash and kept once for all
// checkpoints: files of the base, packs of memory, and chunks of private files.
constexpr const char* kSharedFolders[] = {"base-files", "packs", "files"};
constexpr std::size_t kMaxFiles = 65'536;

struct StoredFile {
  std::string path;  // relative to the checkpoint's directory; see check_path()
  std::uint64_t size = 0;
  std::uint32_t mode = 0;
  std::string xxh3_128;
  std::string sealed;  // SealedHead::id(); empty: it is not encrypted

  friend bool operator==(const StoredFile&, const StoredFile&) = default;
};

struct Manifest {
  JobId job;
  CheckpointNumber number;
  std::string info_json = "{}";
  std::vector<StoredFile> files;
};

std::string encode_manifest(const Manifest& manifest);
// Damaged when it is not what encode_manifest() wrote.
Result<Manifest> decode_manifest(std::string_view text);

// InvalidArgument unless `path` is a plain relative path of at most 8 components and 512 bytes in
// [A-Za-z0-9._+=@,:-], none of them "." or "..", and not the manifest's own names.
Status check_path(std::string_view path);

// "base-files/<hash>", "packs/<hash>", "files/<hash>" -> the hash; empty for any other path.
std::string_view shared_file_hash(std::string_view path);
// Whether it lies in one of these folders, whatever its name.
bool in_shared_folder(std::string_view path);

}  // namespace baton::store
