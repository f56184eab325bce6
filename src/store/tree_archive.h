// A directory tree as one pax archive and back, exactly: ownership by number, permissions, times
// in nanoseconds, extended attributes, hard links, holes, fifos, symbolic links, and the marks of
// an overlay's upper layer (whiteouts: character device 0:0; opaque directories: the attribute
// trusted.overlay.opaque). Left out: sockets (whoever restores the process binds them again) and
// what ties an upper layer to one node's filesystem (the other trusted.overlay.* attributes).
//
// The content of a file may be kept elsewhere (store/file_content.h): the archive then has an empty
// file with the attribute kContentAttribute, whose value is a number in decimal digits.
//
// Never calls fsync: an archive is made while a job stands still. Needs CAP_SYS_ADMIN for
// trusted.* attributes. Thread-safe.
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "store/file_content.h"

namespace baton::store {

// No file that has it of itself gets it into an archive.
inline constexpr const char* kContentAttribute = "trusted.baton.content";

struct TreeArchiveOptions {
  std::vector<std::string> exclude;  // paths relative to the root, with all below them
  // Asked for each regular file (for the first of several hard links), open for reading. A number:
  // its content is kept elsewhere, under that number.
  std::function<Result<std::optional<std::uint64_t>>(int file, const std::string& path,
                                                     const struct stat& info)>
      keep_elsewhere;
};

// Archives what is in `root` (and the attributes of `root` itself). Does not cross into other
// filesystems mounted below. Refused: a device node that extract_tree() would not make.
// Returns the archive's size. The tree must stand still meanwhile (a file that shrinks is an
// error).
Result<std::uint64_t> archive_tree(const std::filesystem::path& root,
                                   const std::filesystem::path& archive,
                                   const TreeArchiveOptions& options = {});

struct ContentElsewhere {
  std::vector<FileContent> contents;  // by their numbers
  std::filesystem::path chunks;       // the folder of their chunks
};

// Unpacks into the existing directory `root`. The archive is not trusted: nothing outside of
// `root` is touched, no symbolic link in it is followed, no devices but whiteouts and those of
// memory and terminals (major 1 and 5) are made. Damaged: the archive is not whole or tries to.
// What is there already stays, unless the archive has the same name.
Status extract_tree(const std::filesystem::path& archive, const std::filesystem::path& root,
                    const ContentElsewhere& elsewhere = {});

}  // namespace baton::store
