#include "sys/mounts.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/statfs.h>

#include <charconv>

#include "sys/file.h"

namespace baton::sys {
namespace {

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  for (;;) {
    const std::size_t at = text.find(separator);
    parts.push_back(text.substr(0, at));
    if (at == std::string_view::npos) return parts;
    text.remove_prefix(at + 1);
  }
}

// The kernel writes space, tab, newline and backslash as three octal digits.
std::string unescape(std::string_view text) {
  std::string result;
  for (std::size_t i = 0; i < text.size(); ++i) {
    unsigned value = 0;
    if (text[i] == '\\' && i + 3 < text.size() &&
        std::from_chars(&text[i + 1], &text[i + 4], value, 8).ptr == &text[i + 4]) {
      result += static_cast<char>(value);
      i += 3;
    } else {
      result += text[i];
    }
  }
  return result;
}

bool has_option(std::string_view options, std::string_view wanted) {
  for (const std::string_view option : split(options, ','))
    if (option == wanted) return true;
  return false;
}

}  // namespace

std::vector<Mount> parse_mountinfo(std::string_view text) {
  std::vector<Mount> mounts;
  for (const std::string_view line : split(text, '\n')) {
    const auto fields = split(line, ' ');
    std::size_t dash = 6;
    while (dash < fields.size() && fields[dash] != "-") ++dash;
    if (dash + 3 >= fields.size()) continue;
    Mount mount;
    std::from_chars(fields[0].data(), fields[0].data() + fields[0].size(), mount.id);
    mount.root = unescape(fields[3]);
    mount.target = unescape(fields[4]);
    mount.type = fields[dash + 1];
    mount.source = unescape(fields[dash + 2]);
    mount.super_options = fields[dash + 3];
    mount.read_only = has_option(fields[5], "ro") || has_option(mount.super_options, "ro");
    mounts.push_back(std::move(mount));
  }
  return mounts;
}

Result<std::vector<Mount>> read_mounts() {
  BATON_TRY(std::string text, read_file("/proc/self/mountinfo"));
  return parse_mountinfo(text);
}

Result<std::uint64_t> mount_id_of(const std::filesystem::path& path) {
  struct statx status {};
  if (::statx(AT_FDCWD, path.c_str(), AT_NO_AUTOMOUNT, STATX_MNT_ID, &status) != 0)
    return fail_errno(path.string());
  if ((status.stx_mask & STATX_MNT_ID) == 0)
    return fail(ErrorCode::Unfit, "the kernel tells no mount ids (Linux 5.8 is needed)");
  return status.stx_mnt_id;
}

Result<bool> is_on_overlay(const std::filesystem::path& path) {
  struct statfs status {};
  if (::statfs(path.c_str(), &status) != 0) return fail_errno(path.string());
  return status.f_type == OVERLAYFS_SUPER_MAGIC;
}

std::string escape_overlay_path(const std::filesystem::path& path) {
  std::string result;
  for (const char c : path.string()) {
    if (c == '\\' || c == ':' || c == ',') result += '\\';
    result += c;
  }
  return result;
}

}  // namespace baton::sys
