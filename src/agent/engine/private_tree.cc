#include "agent/engine/private_tree.h"

#include <fcntl.h>
#include <fts.h>
#include <linux/magic.h>
#include <sys/vfs.h>

#include <memory>

#include "store/hash.h"
#include "sys/file.h"

namespace baton::agent {
namespace {

namespace fs = std::filesystem;

constexpr long xfs_magic = 0x58465342;

// Those known to update a file's times in page_mkwrite, which comes before the first store.
bool updates_times_on_stores(int folder) {
  struct statfs info {};
  if (::fstatfs(folder, &info) != 0) return false;
  switch (info.f_type) {
    case EXT4_SUPER_MAGIC:
    case BTRFS_SUPER_MAGIC:
    case F2FS_SUPER_MAGIC:
    case xfs_magic: return true;
    default: return false;
  }
}

// Where the job sees an overlay's tree; empty for one that it sees as it is.
fs::path place_inside(const std::string& tree) {
  if (tree == "upper") return "/";
  auto paths = overlay_paths({tree});
  return paths.empty() ? fs::path() : paths.front();
}

using Walk = std::unique_ptr<FTS, int (*)(FTS*)>;

Walk walk_tree(const PrivateTree& tree) {
  std::string root = tree.folder.string();
  char* const roots[] = {root.data(), nullptr};
  return {::fts_open(roots, FTS_PHYSICAL | FTS_XDEV | FTS_NOCHDIR, nullptr), &::fts_close};
}

void add_status(store::Hasher& hasher, const struct stat& info) {
  const std::uint64_t figures[] = {info.st_dev,
                                   info.st_ino,
                                   info.st_mode,
                                   info.st_nlink,
                                   info.st_uid,
                                   info.st_gid,
                                   info.st_rdev,
                                   static_cast<std::uint64_t>(info.st_size),
                                   static_cast<std::uint64_t>(info.st_mtim.tv_sec),
                                   static_cast<std::uint64_t>(info.st_mtim.tv_nsec),
                                   static_cast<std::uint64_t>(info.st_ctim.tv_sec),
                                   static_cast<std::uint64_t>(info.st_ctim.tv_nsec)};
  hasher.update({reinterpret_cast<const char*>(figures), sizeof figures});
}

}  // namespace

Result<std::vector<PrivateTree>> open_private_trees(const Sandbox& sandbox) {
  std::vector<PrivateTree> trees;
  const fs::path root = fmt::format("/proc/{}/root", sandbox.init_pid());
  for (const auto& [name, folder] : sandbox.private_trees()) {
    PrivateTree tree{name, folder};
    BATON_TRY(tree.outside, sys::open_file(folder, O_RDONLY | O_DIRECTORY));
    const fs::path inside = place_inside(name);
    const fs::path seen = inside.empty() ? folder : root / inside.relative_path();
    BATON_TRY(tree.inside, sys::open_file(seen / ".", O_PATH | O_DIRECTORY));
    tree.times_tell_of_stores = !inside.empty() && updates_times_on_stores(tree.outside.get());
    trees.push_back(std::move(tree));
  }
  return trees;
}

void visit_files(const PrivateTree& tree,
                 const std::function<void(const std::string&, const struct stat&)>& visit) {
  const Walk walk = walk_tree(tree);
  if (!walk) return;
  while (const FTSENT* entry = ::fts_read(walk.get()))
    if (entry->fts_info == FTS_F && S_ISREG(entry->fts_statp->st_mode))
      visit(entry->fts_path + tree.folder.native().size() + 1, *entry->fts_statp);
}

std::optional<std::string> fingerprint(const std::vector<PrivateTree>& trees,
                                       const std::set<fs::path>& exclude) {
  store::Hasher hasher;
  for (const PrivateTree& tree : trees) {
    const Walk walk = walk_tree(tree);
    if (!walk) return std::nullopt;
    errno = 0;
    while (const FTSENT* entry = ::fts_read(walk.get())) {
      switch (entry->fts_info) {
        case FTS_DP: continue;  // seen before what is in it
        case FTS_DNR:
        case FTS_ERR:
        case FTS_NS: return std::nullopt;
        default: break;
      }
      if (exclude.contains(entry->fts_path)) continue;
      // With the zero at the end.
      hasher.update({entry->fts_path, std::size_t{entry->fts_pathlen} + 1});
      add_status(hasher, *entry->fts_statp);
    }
    if (errno != 0) return std::nullopt;
  }
  return hasher.hex();
}

}  // namespace baton::agent
