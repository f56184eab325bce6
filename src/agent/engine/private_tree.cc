#include "agent/engine/private_tree.h"

#include <fcntl.h>
#include <fts.h>
#include <linux/magic.h>
#include <sys/vfs.h>

#include <memory>

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
  std::string root = tree.folder.string();
  char* const roots[] = {root.data(), nullptr};
  const std::unique_ptr<FTS, int (*)(FTS*)> walk(
      ::fts_open(roots, FTS_PHYSICAL | FTS_XDEV | FTS_NOCHDIR, nullptr), &::fts_close);
  if (!walk) return;
  while (const FTSENT* entry = ::fts_read(walk.get()))
    if (entry->fts_info == FTS_F && S_ISREG(entry->fts_statp->st_mode))
      visit(entry->fts_path + root.size() + 1, *entry->fts_statp);
}

}  // namespace baton::agent
