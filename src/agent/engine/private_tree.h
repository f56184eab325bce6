// A tree of a sandbox's private files: where it lies on the node, and how the job sees it.
#pragma once

#include <sys/stat.h>

#include <filesystem>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "agent/sandbox.h"
#include "base/fd.h"
#include "base/result.h"

namespace baton::agent {

struct PrivateTree {
  std::string name;
  std::filesystem::path folder;
  Fd outside;  // the folder, opened
  Fd inside;   // the same as the job sees it: for an overlay's upper layer the overlay
  // Whether a store through a mapping changes the file's times, as on a disk.
  bool times_tell_of_stores = false;
};

Result<std::vector<PrivateTree>> open_private_trees(const Sandbox& sandbox);

// Calls `visit` for each regular file, by its path below the tree. Of a tree that changes meanwhile
// some may be missed.
void visit_files(const PrivateTree& tree,
                 const std::function<void(const std::string& path, const struct stat&)>& visit);

// Changes when anything does that an archive of the trees would show: names, and of each the inode,
// the kind, the owner, the links, the size and the times but that of the last access. Reads no
// content. `exclude`: paths on the node that don't count. Nothing: it can't be told.
std::optional<std::string> fingerprint(const std::vector<PrivateTree>& trees,
                                       const std::set<std::filesystem::path>& exclude = {});

}  // namespace baton::agent
