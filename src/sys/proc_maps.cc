#include "sys/proc_maps.h"

#include <fmt/format.h>

#include <charconv>

#include "sys/file.h"

namespace baton::sys {
namespace {

constexpr std::uint64_t maps_bytes_max = 256u << 20;

// Takes the text up to `delimiter` (dropped) off the front.
std::string_view take(std::string_view& line, char delimiter) {
  std::size_t at = line.find(delimiter);
  std::string_view field = line.substr(0, at);
  line.remove_prefix(at == std::string_view::npos ? line.size() : at + 1);
  return field;
}

bool parse_number(std::string_view text, int base, std::uint64_t& value) {
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  return error == std::errc() && end == text.data() + text.size();
}

// "55d0c8a00000-55d0c8a02000 r--p 00000000 fe:00 131   /usr/bin/x"
bool parse_line(std::string_view line, Mapping& mapping) {
  if (!parse_number(take(line, '-'), 16, mapping.start)) return false;
  if (!parse_number(take(line, ' '), 16, mapping.end)) return false;
  std::string_view flags = take(line, ' ');
  if (flags.size() != 4 || mapping.start >= mapping.end) return false;
  mapping.readable = flags[0] == 'r';
  mapping.writable = flags[1] == 'w';
  mapping.executable = flags[2] == 'x';
  mapping.shared = flags[3] == 's';
  if (!parse_number(take(line, ' '), 16, mapping.offset)) return false;
  take(line, ' ');  // the device
  if (!parse_number(take(line, ' '), 10, mapping.inode)) return false;
  line.remove_prefix(std::min(line.find_first_not_of(' '), line.size()));
  mapping.name = line;
  return true;
}

}  // namespace

Result<std::vector<Mapping>> parse_mappings(std::string_view text) {
  std::vector<Mapping> mappings;
  while (!text.empty()) {
    std::string_view line = take(text, '\n');
    Mapping mapping;
    if (!parse_line(line, mapping))
      return fail(ErrorCode::Damaged, fmt::format("not a line of /proc/PID/maps: {}", line));
    mappings.push_back(std::move(mapping));
  }
  return mappings;
}

Result<std::vector<Mapping>> read_mappings(pid_t pid) {
  BATON_TRY(std::string text, read_file(fmt::format("/proc/{}/maps", pid), maps_bytes_max));
  return parse_mappings(text);
}

}  // namespace baton::sys
