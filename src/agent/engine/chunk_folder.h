// The chunks of a sandbox's large private files, each under its content's hash
// (store/file_content.h). Thread-compatible.
#pragma once

#include <sys/stat.h>

#include <filesystem>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <utility>

#include "base/result.h"
#include "store/file_content.h"

namespace baton::agent {

class ChunkFolder {
 public:
  // Empties `directory`.
  static Result<std::unique_ptr<ChunkFolder>> create(std::filesystem::path directory);

  // Reads all of a file and stores those of its chunks that are not here. `go_on` is asked before
  // each chunk. Cancelled: it said no. A file that is written to meanwhile gives anything.
  Result<store::FileContent> add(int file, const struct stat& info,
                                 const std::function<bool()>& go_on = {});
  // Takes in a chunk that lies elsewhere.
  Status adopt(const std::filesystem::path& file, const std::string& hash);
  // Puts chunks into a checkpoint's folder.
  Status link(const std::set<std::string>& hashes, const std::filesystem::path& folder) const;
  void keep_only(const std::set<std::string>& hashes);
  // Since the last call: of chunks that were not here.
  std::uint64_t take_new_bytes() { return std::exchange(new_bytes_, 0); }

 private:
  explicit ChunkFolder(std::filesystem::path directory) : directory_(std::move(directory)) {}
  Status store(const std::string& hash, std::string_view data);

  const std::filesystem::path directory_;
  std::set<std::string> hashes_;
  std::uint64_t new_bytes_ = 0;
};

// Adds the names of its chunks.
void collect(const store::FileContent& content, std::set<std::string>& hashes);

}  // namespace baton::agent
