// One of CRIU's images as messages: two words of magic, then each message with its length in front.
// Magic numbers and the layout are those of CRIU's criu/include/magic.h. Internal to this folder.
#pragma once

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <vector>

#include "base/result.h"
#include "sys/file.h"

namespace baton::criu {

inline constexpr std::uint32_t kCommonMagic = 0x54564319;
inline constexpr std::uint32_t kFilesMagic = 0x56303138;
inline constexpr std::uint32_t kPstreeMagic = 0x50273030;
inline constexpr std::uint32_t kRemapMagic = 0x59133954;
inline constexpr std::uint32_t kMmMagic = 0x57492820;
inline constexpr std::uint32_t kCoreMagic = 0x55053847;
inline constexpr std::uint32_t kIdsMagic = 0x54432030;
inline constexpr std::uint32_t kFdinfoMagic = 0x56213732;
inline constexpr std::uint64_t kImageBytesMax = 256u << 20;

// Damaged: missing, cut short, or not an image of that kind.
template <typename Entry>
Result<std::vector<Entry>> read_entries(const std::filesystem::path& path, std::uint32_t magic) {
  auto read = sys::read_file(path, kImageBytesMax);
  if (!read) return fail(ErrorCode::Damaged, read.error().message());
  const std::string& content = *read;
  auto damaged = [&] {
    return fail(ErrorCode::Damaged, fmt::format("{} is not a whole CRIU image", path.string()));
  };
  auto word = [&](std::size_t at) {
    std::uint32_t value = 0;
    std::memcpy(&value, content.data() + at, sizeof value);
    return value;
  };
  if (content.size() < 8 || word(0) != kCommonMagic || word(4) != magic) return damaged();
  std::vector<Entry> entries;
  for (std::size_t at = 8; at < content.size();) {
    if (content.size() - at < 4) return damaged();
    std::size_t size = word(at);
    at += 4;
    if (content.size() - at < size) return damaged();
    Entry entry;
    if (!entry.ParseFromArray(content.data() + at, static_cast<int>(size))) return damaged();
    entries.push_back(std::move(entry));
    at += size;
  }
  return entries;
}

// What CRIU calls a type of file (fd_types of its fdinfo.proto).
inline const char* file_kind(std::uint32_t type) {
  static constexpr const char* names[] = {
      nullptr,    "file",           "pipe",      "fifo",     "inet-socket",   "unix-socket",
      "eventfd",  "epoll",          "inotify",   "signalfd", "packet-socket", "tty",
      "fanotify", "netlink-socket", "namespace", "tun",      "external",      "timerfd",
      "memfd",    "bpf-map",        "pidfd"};
  return type < std::size(names) ? names[type] : "unknown";
}

}  // namespace baton::criu
