// One of CRIU's images as messages: two words of magic, then each message with its length in front.
// Magic numbers and the layout are those of CRIU's criu/include/magic.h. Internal to this folder.
#pragma once

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "sys/byte_source.h"
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

template <typename Entry>
Result<std::vector<Entry>> parse_entries(const std::string& content, const std::string& name,
                                         std::uint32_t magic) {
  auto damaged = [&] {
    return fail(ErrorCode::Damaged, fmt::format("{} is not a whole CRIU image", name));
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

// Damaged: missing, cut short, or not an image of that kind.
template <typename Entry>
Result<std::vector<Entry>> read_entries(const std::filesystem::path& path, std::uint32_t magic) {
  auto content = sys::read_file(path, kImageBytesMax);
  if (!content) return fail(ErrorCode::Damaged, content.error().message());
  return parse_entries<Entry>(*content, path.string(), magic);
}

// Nothing: there is no such image. Damaged: as above.
template <typename Entry>
Result<std::optional<std::vector<Entry>>> find_entries(const sys::OpenSource& images,
                                                       const std::string& name,
                                                       std::uint32_t magic) {
  auto source = images(name);
  if (!source && source.error().code() == ErrorCode::NotFound) return std::nullopt;
  if (!source) return fail(ErrorCode::Damaged, source.error().message());
  auto content = sys::read_source(**source, kImageBytesMax);
  if (!content) return fail(ErrorCode::Damaged, content.error().message());
  BATON_TRY(auto entries, parse_entries<Entry>(*content, (*source)->name(), magic));
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
