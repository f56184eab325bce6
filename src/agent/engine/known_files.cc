#include "agent/engine/known_files.h"

#include <fcntl.h>

#include "base/log.h"
#include "sys/file.h"

namespace baton::agent {
namespace {

// Two reports each stay below what the kernel queues by default (16,384).
constexpr std::size_t watches_max = 8'000;

bool same_time(const timespec& a, const timespec& b) {
  return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
}

}  // namespace

bool same_status(const struct stat& a, const struct stat& b) {
  return a.st_size == b.st_size && same_time(a.st_mtim, b.st_mtim) &&
         same_time(a.st_ctim, b.st_ctim);
}

void KnownFiles::look_for_changes() {
  if (!watches_) return;
  const bool complete = watches_->drain([&](int watch) {
    auto at = watched_.find(watch);
    if (at == watched_.end()) return;
    KnownFile& known = files_.at(at->second);
    known.unchanged = false;
    known.watch = -1;
    watched_.erase(at);
  });
  if (complete) return;
  spdlog::warn("reports of changed private files were lost");
  for (auto& [id, known] : files_) {
    known.unchanged = false;
    known.watch = -1;
  }
  watched_.clear();
  watches_.reset();
}

bool KnownFiles::watch(const PrivateTree& tree, const std::string& path, int file,
                       KnownFile& known) {
  struct stat before {
  }, seen{}, after{};
  if (::fstat(file, &before) != 0) return false;
  auto inside = sys::open_beneath(tree.inside.get(), path, O_PATH | O_NOFOLLOW, true);
  if (!inside || ::fstat(inside->get(), &seen) != 0) return false;
  // It must be the same file: nobody has put another in its place meanwhile, and no mount covers
  // it. (Its links may be more outside: an overlay keeps an index.)
  if (!S_ISREG(seen.st_mode) || !same_status(before, seen) || before.st_uid != seen.st_uid ||
      before.st_gid != seen.st_gid || before.st_mode != seen.st_mode)
    return false;
  if (::fstatat(tree.outside.get(), path.c_str(), &after, AT_SYMLINK_NOFOLLOW) != 0 ||
      FileId(after) != FileId(before))
    return false;
  known.inside = FileId(seen);
  return add_watch(inside->get(), FileId(before), known);
}

bool KnownFiles::add_watch(int seen, const FileId& id, KnownFile& known) {
  if (known.watch < 0 && watched_.size() >= watches_max) return false;
  if (!watches_) {
    auto created = FileWatch::create();
    if (!created) return false;
    watches_ = std::move(*created);
  }
  auto watch = watches_->add(seen);
  if (!watch) return false;
  auto [at, is_new] = watched_.try_emplace(*watch, id);
  if (at->second != id) return false;  // two files can't be one
  if (!is_new || known.watch == *watch) {
    known.watch = *watch;
    return true;
  }
  unwatch(known);
  known.watch = *watch;
  return true;
}

KnownFile* KnownFiles::find(const FileId& id) {
  auto at = files_.find(id);
  return at == files_.end() ? nullptr : &at->second;
}

void KnownFiles::unwatch(KnownFile& known) {
  if (known.watch < 0) return;
  watched_.erase(known.watch);
  if (watches_) watches_->remove(known.watch);
  known.watch = -1;
}

void KnownFiles::clear() {
  files_.clear();
  watched_.clear();
  watches_.reset();
}

}  // namespace baton::agent
