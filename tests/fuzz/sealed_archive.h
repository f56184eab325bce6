// Archives of checkpoints that chance has made.
#pragma once

#include <cstring>
#include <string>
#include <string_view>

#include "store/hash.h"

namespace baton::fuzz {

// The same members with sizes that fit and the right checksums, which chance does not find.
inline std::string seal_archive(std::string_view bytes) {
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

}  // namespace baton::fuzz
