// A directory tree as one pax archive and back, exactly: ownership by number, permissions, times
// in nanoseconds, extended attributes, hard links, holes, fifos, symbolic links, and the marks of
// an overlay's upper layer (whiteouts: character device 0:0; opaque directories: the attribute
// trusted.overlay.opaque). Left out: sockets (whoever restores the process binds them again) and
// what ties an upper layer to one node's filesystem (the other trusted.overlay.* attributes).
//
// Never calls fsync: an archive is made while a job stands still. Needs CAP_SYS_ADMIN for
// trusted.* attributes. Thread-safe.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/result.h"

namespace baton::store {

struct TreeArchiveOptions {
  std::vector<std::string> exclude;  // paths relative to the root, with all below them
};

// Archives what is in `root` (and the attributes of `root` itself). Does not cross into other
// filesystems mounted below. Refused: a device node that extract_tree() would not make.
// Returns the archive's size. The tree must stand still meanwhile (a file that shrinks is an
// error).
Result<std::uint64_t> archive_tree(const std::filesystem::path& root,
                                   const std::filesystem::path& archive,
                                   const TreeArchiveOptions& options = {});

// Unpacks into the existing directory `root`. The archive is not trusted: nothing outside of
// `root` is touched, no symbolic link in it is followed, no devices but whiteouts and those of
// memory and terminals (major 1 and 5) are made. Damaged: the archive is not whole or tries to.
// What is there already stays, unless the archive has the same name.
Status extract_tree(const std::filesystem::path& archive, const std::filesystem::path& root);

}  // namespace baton::store
