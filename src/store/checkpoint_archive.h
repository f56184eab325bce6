// A checkpoint as one stream of bytes, to be carried to another cluster. docs/store-format.md draws
// it. The writer and the reader know members and their hashes; what they mean is for others.
//
// Thread-compatible.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "store/hash.h"

namespace baton::store {

struct ArchiveMember {
  enum class Kind : std::uint32_t {
    Description = 1,  // first and once; JSON
    File = 2,         // `path` as in a manifest
    Output = 3,       // once at most
  };
  Kind kind = Kind::File;
  std::string path;  // of a File; empty else
  std::uint64_t size = 0;
  std::uint32_t mode = 0;  // of a File
};

inline constexpr std::uint64_t kMaxDescriptionBytes = 128u << 20;

class ArchiveWriter {
 public:
  using Sink = std::function<Status(std::string_view data)>;
  explicit ArchiveWriter(Sink sink);

  // begin_member(), write()… with exactly the announced size, end_member(); …; finish().
  Status begin_member(const ArchiveMember& member);
  Status write(std::string_view data);
  Status end_member();
  Status finish();

 private:
  const Sink sink_;
  bool begun_ = false;
  std::string member_head_;
  std::uint64_t left_ = 0;
  std::uint64_t members_ = 0;
  Hasher content_;
  Hasher members_hash_;
};

// Believes nothing: sizes and counts are bounded, paths are check_path()'s, every member is
// compared with its hashes. Damaged says what is wrong.
class ArchiveReader {
 public:
  // The next bytes, however many; empty: there are no more.
  using Source = std::function<Result<std::string>()>;
  explicit ArchiveReader(Source source) : source_(std::move(source)) {}

  // The next member; nothing once the end mark has come, whole, and no byte behind it. A member
  // has to be read before the next one is asked for.
  Result<std::optional<ArchiveMember>> next();
  // Hands the member's content to `sink` and returns its hash. What `sink` got is to be believed
  // only then.
  Result<std::string> read(const ArchiveWriter::Sink& sink);

 private:
  Status take(void* data, std::size_t size);
  Status fill();
  Status check(const ArchiveMember& member);
  Status read_end(std::uint64_t members);

  const Source source_;
  std::string buffer_;
  std::size_t at_ = 0;
  bool ended_ = false;
  bool begun_ = false;
  bool in_member_ = false;
  bool has_output_ = false;
  std::string member_head_;
  std::uint64_t left_ = 0;
  std::uint64_t members_ = 0;
  Hasher members_hash_;
};

}  // namespace baton::store
