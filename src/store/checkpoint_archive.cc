#include "store/checkpoint_archive.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "store/manifest.h"

namespace baton::store {
namespace {

static_assert(std::endian::native == std::endian::little,
              "figures are stored as they lie in memory");

constexpr std::array<char, 8> kHeadMagic = {'B', 'A', 'T', 'N', 'A', 'R', 'C', 'H'};
constexpr std::array<char, 8> kEndMagic = {'B', 'A', 'T', 'N', 'D', 'O', 'N', 'E'};
constexpr std::uint32_t kVersion = 1;
constexpr std::uint32_t kEndKind = 4;
constexpr std::size_t kHashDigits = 32;
constexpr std::uint64_t kMaxMembers = kMaxFiles + 2;
constexpr std::uint64_t kMaxMemberBytes = std::uint64_t{1} << 44;
constexpr std::size_t kMaxPathBytes = 512;

struct Head {
  std::array<char, 8> magic = kHeadMagic;
  std::uint32_t version = kVersion;
  std::uint32_t reserved = 0;
};
struct MemberHead {
  std::uint32_t kind = 0;
  std::uint32_t path_bytes = 0;
  std::uint64_t size = 0;  // of the end: how many members there were
  std::uint32_t mode = 0;
  std::uint32_t reserved = 0;
};
static_assert(sizeof(Head) == 16 && sizeof(MemberHead) == 24);

std::unexpected<Error> damaged(std::string_view why) {
  return fail(ErrorCode::Damaged, fmt::format("archive of a checkpoint: {}", why));
}

template <typename T>
std::string_view bytes_of(const T& value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

}  // namespace

ArchiveWriter::ArchiveWriter(Sink sink) : sink_(std::move(sink)) {}

Status ArchiveWriter::begin_member(const ArchiveMember& member) {
  if (!begun_) BATON_CHECK(sink_(bytes_of(Head())));
  begun_ = true;
  MemberHead head;
  head.kind = static_cast<std::uint32_t>(member.kind);
  head.path_bytes = static_cast<std::uint32_t>(member.path.size());
  head.size = left_ = member.size;
  head.mode = member.mode;
  member_head_ = std::string(bytes_of(head)) + member.path;
  content_.reset();
  return sink_(member_head_);
}

Status ArchiveWriter::write(std::string_view data) {
  if (data.size() > left_)
    return fail(ErrorCode::Internal, "archive: more bytes than the announced size");
  left_ -= data.size();
  content_.update(data);
  return sink_(data);
}

Status ArchiveWriter::end_member() {
  if (left_ != 0) return fail(ErrorCode::Internal, "archive: fewer bytes than the announced size");
  const std::string content = content_.hex();
  const std::string whole = hash_bytes(member_head_ + content);
  members_hash_.update(whole);
  ++members_;
  return sink_(content + whole);
}

Status ArchiveWriter::finish() {
  MemberHead head;
  head.kind = kEndKind;
  head.size = members_;
  members_hash_.update(bytes_of(head));
  return sink_(std::string(bytes_of(head)) + members_hash_.hex() +
               std::string(kEndMagic.data(), kEndMagic.size()));
}

Status ArchiveReader::fill() {
  while (at_ == buffer_.size() && !ended_) {
    BATON_TRY(buffer_, source_());
    at_ = 0;
    ended_ = buffer_.empty();
  }
  return {};
}

Status ArchiveReader::take(void* data, std::size_t size) {
  auto* out = static_cast<char*>(data);
  while (size > 0) {
    BATON_CHECK(fill());
    if (ended_) return damaged("it is cut short");
    const std::size_t count = std::min(size, buffer_.size() - at_);
    std::memcpy(out, buffer_.data() + at_, count);
    at_ += count;
    out += count;
    size -= count;
  }
  return {};
}

Status ArchiveReader::check(const ArchiveMember& member) {
  const bool first = members_ == 0;
  if (first != (member.kind == ArchiveMember::Kind::Description))
    return damaged("its description is not where it belongs");
  if (members_ >= kMaxMembers) return damaged("it has too many members");
  switch (member.kind) {
    case ArchiveMember::Kind::Description:
      if (member.size > kMaxDescriptionBytes) return damaged("its description is too large");
      break;
    case ArchiveMember::Kind::File:
      if (auto status = check_path(member.path); !status) return damaged(status.error().message());
      break;
    case ArchiveMember::Kind::Output:
      if (std::exchange(has_output_, true)) return damaged("it has output twice");
      break;
    default: return damaged("a member is of an unknown kind");
  }
  if (member.kind != ArchiveMember::Kind::File && !member.path.empty())
    return damaged("a member has a path that should have none");
  if (member.size > kMaxMemberBytes) return damaged("the size of a member is absurd");
  return {};
}

Result<std::optional<ArchiveMember>> ArchiveReader::next() {
  if (in_member_) return fail(ErrorCode::Internal, "archive: the member before was not read");
  if (!begun_) {
    Head head;
    BATON_CHECK(take(&head, sizeof head));
    if (head.magic != kHeadMagic) return damaged("it is none");
    if (head.version != kVersion || head.reserved != 0)
      return damaged(fmt::format("of version {}, which this baton does not know", head.version));
    begun_ = true;
  }
  MemberHead head;
  BATON_CHECK(take(&head, sizeof head));
  if (head.path_bytes > kMaxPathBytes || head.reserved != 0)
    return damaged("the head of a member is absurd");
  if (head.kind == kEndKind) {
    if (head.path_bytes != 0 || head.mode != 0) return damaged("its end mark is absurd");
    BATON_CHECK(read_end(head.size));
    return std::optional<ArchiveMember>();
  }
  ArchiveMember member;
  member.kind = static_cast<ArchiveMember::Kind>(head.kind);
  member.size = head.size;
  member.mode = head.mode;
  member.path.resize(head.path_bytes);
  BATON_CHECK(take(member.path.data(), member.path.size()));
  BATON_CHECK(check(member));
  member_head_ = std::string(bytes_of(head)) + member.path;
  left_ = member.size;
  in_member_ = true;
  ++members_;
  return std::optional(std::move(member));
}

Result<std::string> ArchiveReader::read(const ArchiveWriter::Sink& sink) {
  Hasher content;
  while (left_ > 0) {
    BATON_CHECK(fill());
    if (ended_) return damaged("it is cut short");
    const std::string_view part = std::string_view(buffer_).substr(at_, left_);
    content.update(part);
    at_ += part.size();
    left_ -= part.size();
    BATON_CHECK(sink(part));
  }
  std::string stored(2 * kHashDigits, '\0');
  BATON_CHECK(take(stored.data(), stored.size()));
  const std::string hash = content.hex();
  const std::string whole = hash_bytes(member_head_ + hash);
  if (stored != hash + whole)
    return damaged(
        fmt::format("the checksum of {} is wrong", member_head_.size() > sizeof(MemberHead)
                                                       ? member_head_.substr(sizeof(MemberHead))
                                                       : "a member"));
  members_hash_.update(whole);
  in_member_ = false;
  return hash;
}

Status ArchiveReader::read_end(std::uint64_t members) {
  MemberHead head;
  head.kind = kEndKind;
  head.size = members;
  members_hash_.update(bytes_of(head));
  std::string rest(kHashDigits + kEndMagic.size(), '\0');
  BATON_CHECK(take(rest.data(), rest.size()));
  if (rest != members_hash_.hex() + std::string(kEndMagic.data(), kEndMagic.size()) ||
      members != members_)
    return damaged("its end mark is wrong");
  if (members == 0) return damaged("it is empty");
  BATON_CHECK(fill());
  if (!ended_) return damaged("something follows its end");
  return {};
}

}  // namespace baton::store
