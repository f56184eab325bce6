// A file as an encrypted store keeps it: its bytes in segments, each sealed under a key of the
// file's own. Any range can be read; what is changed, cut off, put in another order or taken from
// another file is found and never handed out. docs/store-format.md draws it and says why it is so.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/fd.h"
#include "base/ids.h"
#include "base/result.h"
#include "store/crypto.h"
#include "sys/byte_source.h"

namespace baton::store {

// The key of a job's data, and what is derived from it.
struct JobKey {
  JobId job;
  Secret data;
  Secret names;  // for keyed_hash() of what names its shared files
};

inline constexpr std::uint32_t kSegmentBytes = 64 << 10;

// As it lies at the file's begin; all of it is authenticated with each segment.
struct SealedHead {
  std::array<char, 8> magic = {'B', 'A', 'T', 'N', 'C', 'R', 'P', 'T'};
  std::uint32_t version = 1;
  std::uint32_t segment_bytes = kSegmentBytes;
  std::uint64_t job = 0;
  std::uint64_t bytes = 0;               // of the content
  std::array<unsigned char, 16> file{};  // random; with the job's key it makes the file's

  std::string id() const;  // `file` as 32 hexadecimal digits
};
static_assert(sizeof(SealedHead) == 48);

// What the content lies in.
std::uint64_t sealed_bytes(std::uint64_t content_bytes);
// False: it is not of this kind.
bool is_sealed(int file);
// Damaged: not such a file, or cut short. Nothing is authenticated yet.
Result<SealedHead> read_sealed_head(int file);

// `purpose` has a part in the file's key: a reader with another one finds nothing but damage.
inline constexpr std::string_view kContentPurpose = "content";
std::string manifest_purpose(CheckpointNumber number);

// Thread-compatible.
class SealedWriter {
 public:
  SealedWriter(const JobKey& key, std::uint64_t bytes, std::string_view purpose = kContentPurpose);

  std::string id() const { return head_.id(); }
  // Appends to `file`, now or later. Altogether as many bytes as were announced, no more.
  Status write(int file, std::string_view data);
  // After the last of them.
  Status finish(int file);

 private:
  void begin_segment();
  void end_segment();
  Status flush(int file);

  SealedHead head_;
  Gcm gcm_;
  const std::unique_ptr<char[]> buffer_;  // sealed and not written yet …
  std::size_t filled_ = 0;                // … so much of it
  std::uint64_t segment_ = 0;
  std::uint64_t left_ = 0;  // of the segment
  bool in_segment_ = false;
};

// Thread-safe.
class SealedSource : public sys::ByteSource {
 public:
  // Damaged: not such a file, cut short, or of another job; with `id`, another file of the job.
  static Result<std::unique_ptr<SealedSource>> open(Fd file, std::string name,
                                                    std::shared_ptr<const JobKey> key,
                                                    const std::optional<std::string>& id,
                                                    std::string_view purpose = kContentPurpose);
  ~SealedSource() override;

  std::uint64_t size() const override { return head_.bytes; }
  Status read(void* data, std::size_t size, std::uint64_t offset) const override;
  std::string name() const override { return name_; }

 private:
  struct State;  // under its mutex
  SealedSource(Fd file, std::string name, const JobKey& key, const SealedHead& head,
               std::string_view purpose);
  Status open_segment(State& state, std::uint64_t number, char* out) const;
  std::size_t segment_size(std::uint64_t number) const;

  const Fd file_;
  const std::string name_;
  const SealedHead head_;
  const std::unique_ptr<State> state_;
};

}  // namespace baton::store
