#include "store/sealed_file.h"

#include <sys/stat.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <mutex>
#include <vector>

#include "sys/file.h"

namespace baton::store {
namespace {

static_assert(std::endian::native == std::endian::little,
              "figures are stored as they lie in memory");

constexpr std::size_t kStoredSegmentBytes = kSegmentBytes + Gcm::kTagBytes;
constexpr std::size_t kFlushBytes = 4 * kStoredSegmentBytes;
constexpr std::uint64_t kMaxBytes = std::uint64_t{1} << 44;

std::uint64_t segments_of(std::uint64_t bytes) {
  return bytes == 0 ? 1 : (bytes + kSegmentBytes - 1) / kSegmentBytes;
}

std::string_view as_text(const SealedHead& head) {
  return {reinterpret_cast<const char*>(&head), sizeof head};
}

// The segment's number and whether it is the last one: each is used once under the file's key.
Gcm::Nonce nonce_of(std::uint64_t number, bool last) {
  Gcm::Nonce nonce{};
  for (std::size_t i = 0; i < 8; ++i) nonce[10 - i] = static_cast<unsigned char>(number >> (8 * i));
  nonce[11] = last ? 1 : 0;
  return nonce;
}

Secret file_key(const JobKey& key, const SealedHead& head, std::string_view purpose) {
  return derive_secret(key.data,
                       {reinterpret_cast<const char*>(head.file.data()), head.file.size()},
                       fmt::format("baton sealed file 1: {}", purpose));
}

SealedHead new_head(const JobKey& key, std::uint64_t bytes) {
  SealedHead head;
  head.job = key.job.value;
  head.bytes = bytes;
  fill_random(head.file.data(), head.file.size());
  return head;
}

}  // namespace

std::string SealedHead::id() const { return fmt::format("{:02x}", fmt::join(file, "")); }

std::string manifest_purpose(CheckpointNumber number) {
  return fmt::format("manifest of checkpoint {}", number);
}

std::uint64_t sealed_bytes(std::uint64_t content_bytes) {
  return sizeof(SealedHead) + content_bytes + segments_of(content_bytes) * Gcm::kTagBytes;
}

bool is_sealed(int file) {
  std::array<char, 8> magic{};
  return sys::pread_all(file, magic.data(), magic.size(), 0) && magic == SealedHead().magic;
}

Result<SealedHead> read_sealed_head(int file) {
  struct stat info {};
  if (::fstat(file, &info) != 0) return fail_errno("stat");
  const auto size = static_cast<std::uint64_t>(info.st_size);
  SealedHead head;
  if (!S_ISREG(info.st_mode) || size < sealed_bytes(0))
    return fail(ErrorCode::Damaged, "cut short");
  BATON_CHECK(sys::pread_all(file, &head, sizeof head, 0));
  if (head.magic != SealedHead().magic) return fail(ErrorCode::Damaged, "not an encrypted file");
  if (head.version != SealedHead().version || head.segment_bytes != kSegmentBytes)
    return fail(ErrorCode::Damaged, "of a format that this version does not know");
  if (head.bytes > kMaxBytes || size != sealed_bytes(head.bytes))
    return fail(ErrorCode::Damaged,
                fmt::format("has {} bytes, which is not what its head says", size));
  return head;
}

SealedWriter::SealedWriter(const JobKey& key, std::uint64_t bytes, std::string_view purpose)
    : head_(new_head(key, bytes)),
      gcm_(file_key(key, head_, purpose), Gcm::Way::Seal),
      buffer_(std::make_unique_for_overwrite<char[]>(
          std::min<std::uint64_t>(sealed_bytes(bytes), kFlushBytes + kStoredSegmentBytes))),
      filled_(sizeof head_) {
  std::memcpy(buffer_.get(), &head_, sizeof head_);
}

void SealedWriter::begin_segment() {
  const std::uint64_t before = segment_ * kSegmentBytes;
  left_ = std::min<std::uint64_t>(kSegmentBytes, head_.bytes - before);
  gcm_.begin(nonce_of(segment_, before + left_ == head_.bytes), as_text(head_));
  in_segment_ = true;
}

void SealedWriter::end_segment() {
  gcm_.seal(buffer_.get() + filled_);
  filled_ += Gcm::kTagBytes;
  ++segment_;
  in_segment_ = false;
}

Status SealedWriter::flush(int file) {
  BATON_CHECK(sys::write_all(file, {buffer_.get(), filled_}));
  filled_ = 0;
  return {};
}

// Straight from the caller's buffer, sealed, into ours.
Status SealedWriter::write(int file, std::string_view data) {
  while (!data.empty()) {
    if (!in_segment_ && segment_ * kSegmentBytes >= head_.bytes)
      return fail(ErrorCode::InvalidArgument, "more bytes than were announced for a file");
    if (!in_segment_) begin_segment();
    const std::size_t take = std::min<std::uint64_t>(left_, data.size());
    gcm_.update(data.data(), take, buffer_.get() + filled_);
    filled_ += take;
    data.remove_prefix(take);
    left_ -= take;
    if (left_ > 0) continue;
    end_segment();
    if (filled_ >= kFlushBytes) BATON_CHECK(flush(file));
  }
  return {};
}

Status SealedWriter::finish(int file) {
  if (head_.bytes == 0) {
    begin_segment();
    end_segment();
  }
  if (segment_ != segments_of(head_.bytes))
    return fail(ErrorCode::InvalidArgument, "fewer bytes than were announced for a file");
  return flush(file);
}

struct SealedSource::State {
  explicit State(const Secret& key) : gcm(key, Gcm::Way::Open) {}
  ~State() { wipe(opened); }

  std::mutex mutex;
  Gcm gcm;
  std::vector<char> stored;                    // a segment as it lies in the file
  std::string opened;                          // the last one of which only a part was wanted …
  std::optional<std::uint64_t> opened_number;  // … and its number
};

SealedSource::SealedSource(Fd file, std::string name, const JobKey& key, const SealedHead& head,
                           std::string_view purpose)
    : file_(std::move(file)),
      name_(std::move(name)),
      head_(head),
      state_(new State(file_key(key, head, purpose))) {}

SealedSource::~SealedSource() = default;

Result<std::unique_ptr<SealedSource>> SealedSource::open(Fd file, std::string name,
                                                         std::shared_ptr<const JobKey> key,
                                                         const std::optional<std::string>& id,
                                                         std::string_view purpose) {
  auto head = read_sealed_head(file.get());
  if (!head) return fail(head.error().context(name));
  if (head->job != key->job.value)
    return fail(ErrorCode::Damaged, fmt::format("{}: it is a file of job {}", name, head->job));
  if (id && head->id() != *id)
    return fail(ErrorCode::Damaged, fmt::format("{}: it is another file than it was", name));
  return std::unique_ptr<SealedSource>(
      new SealedSource(std::move(file), std::move(name), *key, *head, purpose));
}

std::size_t SealedSource::segment_size(std::uint64_t number) const {
  return std::min<std::uint64_t>(kSegmentBytes, head_.bytes - number * kSegmentBytes);
}

Status SealedSource::open_segment(State& state, std::uint64_t number, char* out) const {
  const std::size_t size = segment_size(number);
  state.stored.resize(kStoredSegmentBytes);
  BATON_CHECK_CTX(sys::pread_all(file_.get(), state.stored.data(), size + Gcm::kTagBytes,
                                 sizeof head_ + number * kStoredSegmentBytes),
                  name_);
  state.gcm.begin(nonce_of(number, number + 1 == segments_of(head_.bytes)), as_text(head_));
  state.gcm.update(state.stored.data(), size, out);
  if (state.gcm.open(state.stored.data() + size)) return {};
  if (size > 0) std::memset(out, 0, size);
  return fail(ErrorCode::Damaged, fmt::format("{}: bytes from {} on are not what was encrypted",
                                              name_, number * kSegmentBytes));
}

Status SealedSource::read(void* data, std::size_t size, std::uint64_t offset) const {
  if (offset > head_.bytes || size > head_.bytes - offset)
    return fail(ErrorCode::Damaged, fmt::format("{}: file ends early", name_));
  std::lock_guard lock(state_->mutex);
  auto* out = static_cast<char*>(data);
  // An empty file has a segment too, which says that it is to be empty.
  if (head_.bytes == 0) return open_segment(*state_, 0, nullptr);
  while (size > 0) {
    const std::uint64_t number = offset / kSegmentBytes;
    const std::size_t skip = offset % kSegmentBytes;
    const std::size_t take = std::min(size, segment_size(number) - skip);
    if (take == segment_size(number)) {
      BATON_CHECK(open_segment(*state_, number, out));
    } else {
      if (state_->opened_number != number) {
        state_->opened_number.reset();
        state_->opened.resize(kSegmentBytes);
        BATON_CHECK(open_segment(*state_, number, state_->opened.data()));
        state_->opened_number = number;
      }
      std::memcpy(out, state_->opened.data() + skip, take);
    }
    out += take;
    offset += take;
    size -= take;
  }
  return {};
}

}  // namespace baton::store
