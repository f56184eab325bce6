// The portable archive that `baton import` reads.
#include <algorithm>
#include <cstring>
#include <string>

#include "fuzz.h"
#include "store/checkpoint_archive.h"
#include "store/manifest.h"

namespace baton::fuzz {
namespace {

void read(std::string_view bytes, std::size_t part_bytes) {
  store::ArchiveReader reader([&]() -> Result<std::string> {
    std::string part(bytes.substr(0, part_bytes));
    bytes.remove_prefix(part.size());
    return part;
  });
  const std::size_t whole_bytes = bytes.size();
  for (;;) {
    auto member = reader.next();
    require_damaged(member);
    if (!member || !*member) return;
    if ((*member)->kind == store::ArchiveMember::Kind::File)
      require(store::check_path((*member)->path).has_value());
    std::uint64_t taken = 0;
    auto hash = reader.read([&](std::string_view data) {
      taken += data.size();
      return Status();
    });
    require_damaged(hash);
    require(taken <= whole_bytes && (!hash || taken == (*member)->size));
    if (!hash) return;
  }
}

// The same members with sizes that fit and the right checksums, which chance does not find.
std::string seal(std::string_view bytes) {
  constexpr std::size_t head_bytes = 16, member_bytes = 24, hashes_bytes = 64;
  constexpr std::uint32_t end_kind = 4;
  struct {
    std::uint32_t kind, path_bytes;
    std::uint64_t size;
    std::uint32_t mode, reserved;
  } head;
  static_assert(sizeof head == member_bytes);
  auto take = [&](std::uint64_t count) {
    std::string part(bytes.substr(0, count));
    bytes.remove_prefix(part.size());
    return part;
  };
  std::string out = take(head_bytes);
  store::Hasher members;
  std::uint64_t count = 0;
  while (bytes.size() >= member_bytes) {
    std::memcpy(&head, take(member_bytes).data(), member_bytes);
    std::string path, content;
    if (head.kind == end_kind) {
      head.size = count;
    } else {
      path = take(head.path_bytes);
      content = take(head.size);
      head.path_bytes = static_cast<std::uint32_t>(path.size());
      head.size = content.size();
    }
    const std::string raw(reinterpret_cast<const char*>(&head), sizeof head);
    if (head.kind == end_kind) {
      members.update(raw);
      return out + raw + members.hex() + "BATNDONE";
    }
    take(hashes_bytes);
    const std::string hash = store::hash_bytes(content);
    const std::string whole = store::hash_bytes(raw + path + hash);
    members.update(whole);
    out += raw + path + content + hash + whole;
    ++count;
  }
  return out;
}

}  // namespace
}  // namespace baton::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace baton::fuzz;
  const std::string_view bytes = as_text(data, size);
  read(bytes, 1 + size % 100);
  read(seal(bytes), 1 + size % 1000);
  return 0;
}
