#include "sys/proc_maps.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

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

Result<std::string> read_mappings_text(pid_t pid) {
  return read_file(fmt::format("/proc/{}/maps", pid), maps_bytes_max);
}

Result<std::vector<Mapping>> read_mappings(pid_t pid) {
  BATON_TRY(std::string text, read_mappings_text(pid));
  return parse_mappings(text);
}

std::vector<MappingFlags> parse_mapping_flags(std::string_view text) {
  constexpr std::string_view flags_name = "VmFlags: ";
  std::vector<MappingFlags> result;
  while (!text.empty()) {
    std::string_view line = take(text, '\n');
    if (line.starts_with(flags_name) && !result.empty()) {
      line.remove_prefix(flags_name.size());
      result.back().flags = line;
    } else if (!line.empty() && !(line.front() >= 'A' && line.front() <= 'Z')) {
      std::size_t end = 0;
      for (int field = 0; field < 5 && end < line.size(); ++field)
        end = std::min(line.find(' ', end), line.size() - 1) + 1;
      result.push_back({std::string(line.substr(0, end)), {}});
      while (result.back().mapping.ends_with(' ')) result.back().mapping.pop_back();
    }
  }
  return result;
}

// The kernel fills a buffer of a page with as many mappings as fit. The last one often does not, is
// dropped, and looked at once more by the next read; with less room than for two it prints just
// one.
Result<std::vector<MappingFlags>> read_mapping_flags(pid_t pid) {
  std::string path = fmt::format("/proc/{}/smaps", pid), text;
  BATON_TRY(Fd file, open_file(path, O_RDONLY));
  char buffer[512];
  for (;;) {
    ssize_t count = ::read(file.get(), buffer, sizeof buffer);
    if (count < 0) return fail_errno(path);
    if (count == 0) return parse_mapping_flags(text);
    text.append(buffer, static_cast<std::size_t>(count));
    if (text.size() > maps_bytes_max) return fail(ErrorCode::Unfit, path + " is too large");
  }
}

}  // namespace baton::sys
