// What both directions of tree_archive.h share. Internal to the two files that include it.
#pragma once

#include <archive.h>
#include <archive_entry.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <memory>
#include <string_view>

namespace baton::store::tree_archive {

struct EntryFree {
  void operator()(archive_entry* entry) const { archive_entry_free(entry); }
};
using Entry = std::unique_ptr<archive_entry, EntryFree>;

// A whiteout of an overlay, or a device that any container has (null, zero, tty …).
inline bool is_harmless_device(mode_t mode, dev_t device) {
  if (!S_ISCHR(mode)) return false;
  return device == 0 || major(device) == 1 || major(device) == 5;
}

// trusted.overlay.* attributes that are about the files' content, not about where they came from.
inline bool travels(std::string_view attribute) {
  if (attribute.starts_with("trusted.baton.")) return false;
  constexpr std::string_view overlay = "trusted.overlay.";
  if (!attribute.starts_with(overlay)) return true;
  attribute.remove_prefix(overlay.size());
  return attribute == "opaque" || attribute == "redirect" || attribute == "whiteout" ||
         attribute == "protattr";
}

}  // namespace baton::store::tree_archive
