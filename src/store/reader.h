// A published checkpoint, readable file by file, by the names and contents that were uploaded:
// whether it is encrypted on disk makes no difference. While it lives, the checkpoint stays.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"
#include "store/checkpoint_store.h"
#include "sys/byte_source.h"

namespace baton::store {

class Reader {
 public:
  ~Reader();
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;

  const Manifest& manifest() const { return manifest_; }
  bool encrypted() const { return key_ != nullptr; }

  // Hands the file's bytes to `sink` in parts of at most `part_bytes` (an empty file: one empty
  // part). The last part is given only when the whole content has proved right; else Damaged,
  // naming checkpoint and file. An error of `sink` is passed through.
  using Sink = std::function<Status(std::string_view data, bool last)>;
  Status read(const StoredFile& file, std::size_t part_bytes, const Sink& sink) const;

  // To be read at any offset, without being compared with its hash. Damaged: as above.
  Result<std::unique_ptr<sys::ByteSource>> open(const StoredFile& file) const;
  // By path. NotFound: the checkpoint has no such file. The Reader outlives what this returns.
  sys::OpenSource sources() const;

  // Where it lies, and under which name relative to the checkpoint's directory.
  fs::path place(const StoredFile& file) const { return directory_ / name_on_disk(file); }
  std::string name_on_disk(const StoredFile& file) const;

 private:
  friend class CheckpointStore;
  Reader(CheckpointStore& store, CheckpointStore::Key key);
  Status load();
  Result<Manifest> read_manifest();
  Error damaged(std::string_view path, std::string_view why) const;
  // The same; and a shared file that went bad is not to spread to the next checkpoint.
  Error found_damaged(const StoredFile& file, std::string_view why) const;

  CheckpointStore& store_;
  const CheckpointStore::Key id_;
  const fs::path directory_;
  std::shared_ptr<const JobKey> key_;  // null: it is not encrypted
  Manifest manifest_;
};

// Shared files of a job: "packs/<hash>" -> under which name it lies there.
std::string shared_name(const JobKey* key, std::string_view hash);
std::string name_on_disk(const JobKey* key, const std::string& path);

}  // namespace baton::store
