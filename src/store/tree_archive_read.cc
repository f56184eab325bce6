#include <fcntl.h>
#include <sys/xattr.h>

#include <charconv>
#include <vector>

#include "base/fd.h"
#include "store/tree_archive.h"
#include "store/tree_archive_format.h"
#include "sys/file.h"

namespace baton::store {
namespace {

namespace fs = std::filesystem;
using tree_archive::Entry;

struct ReaderFree {
  void operator()(archive* reader) const { archive_read_free(reader); }
};

struct Place {
  Fd parent;
  std::string name;
};

// Splits a relative path into its parent, opened, and its last component.
Result<Place> locate(int root, std::string path) {
  while (path.ends_with('/')) path.pop_back();
  auto slash = path.rfind('/');
  std::string name = slash == std::string::npos ? path : path.substr(slash + 1);
  std::string parent = slash == std::string::npos ? "." : path.substr(0, slash);
  if (path.empty() || path.starts_with('/') || name.empty() || name == "." || name == "..")
    return fail(ErrorCode::Damaged, "a path that leaves the archive's tree");
  auto directory = sys::open_beneath(root, parent, O_PATH | O_DIRECTORY);
  if (!directory) return fail(ErrorCode::Damaged, "its folder is not in the archive or is a link");
  return Place{std::move(*directory), std::move(name)};
}

class TreeReader {
 public:
  TreeReader(int root, const ContentElsewhere& elsewhere)
      : root_(root), elsewhere_(elsewhere), reader_(archive_read_new()) {
    archive_read_support_format_tar(reader_.get());
  }

  Status run(int file) {
    BATON_CHECK(check(archive_read_open_fd(reader_.get(), file, 1 << 20)));
    Entry entry(archive_entry_new());
    for (;;) {
      int outcome = archive_read_next_header2(reader_.get(), entry.get());
      if (outcome == ARCHIVE_EOF) break;
      BATON_CHECK(check(outcome));
      const char* path = archive_entry_pathname(entry.get());
      if (!path) return fail(ErrorCode::Damaged, "an entry without a name");
      if (auto status = add(path, entry.get()); !status)
        return fail(std::move(status).error().context(path));
    }
    return finish_directories();
  }

 private:
  struct Directory {
    std::string path;
    Entry entry;
  };

  Status check(int outcome) {
    if (outcome >= ARCHIVE_WARN) return {};
    const char* text = archive_error_string(reader_.get());
    return fail(ErrorCode::Damaged, fmt::format("read archive: {}", text ? text : "it ends early"));
  }

  Status add(const std::string& path, archive_entry* entry) {
    if (path == "." || path == "./") {
      directories_.push_back({".", Entry(archive_entry_clone(entry))});
      return {};
    }
    BATON_TRY(Place place, locate(root_, path));
    mode_t mode = archive_entry_mode(entry);
    struct stat existing {};
    bool exists =
        ::fstatat(place.parent.get(), place.name.c_str(), &existing, AT_SYMLINK_NOFOLLOW) == 0;
    if (S_ISDIR(mode) && !archive_entry_hardlink(entry)) {
      if (exists && !S_ISDIR(existing.st_mode)) BATON_CHECK(unlink(place));
      if ((!exists || !S_ISDIR(existing.st_mode)) &&
          ::mkdirat(place.parent.get(), place.name.c_str(), 0700) != 0)
        return fail_errno("mkdir");
      directories_.push_back({path, Entry(archive_entry_clone(entry))});
      return {};
    }
    if (exists && S_ISDIR(existing.st_mode))
      return fail(ErrorCode::Damaged, "a folder is there already");
    if (exists) BATON_CHECK(unlink(place));
    if (const char* target = archive_entry_hardlink(entry)) return add_link(place, target);
    if (S_ISREG(mode)) return add_file(place, entry);
    return add_special(place, entry, mode);
  }

  static Status unlink(const Place& place) {
    if (::unlinkat(place.parent.get(), place.name.c_str(), 0) != 0) return fail_errno("replace");
    return {};
  }

  Status add_link(const Place& place, const std::string& target) {
    BATON_TRY(Place source, locate(root_, target));
    struct stat info {};
    if (::fstatat(source.parent.get(), source.name.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0 ||
        S_ISDIR(info.st_mode))
      return fail(ErrorCode::Damaged, fmt::format("a hard link to {}, which is not there", target));
    if (::linkat(source.parent.get(), source.name.c_str(), place.parent.get(), place.name.c_str(),
                 0) != 0)
      return fail_errno("link");
    return {};
  }

  Status add_file(const Place& place, archive_entry* entry) {
    Fd file(::openat(place.parent.get(), place.name.c_str(),
                     O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
    if (!file.valid()) return fail_errno("create");
    BATON_TRY(const FileContent* content, find_content(entry));
    if (content) {
      BATON_CHECK(write_content(*content, elsewhere_.chunks, file.get()));
      return apply(fmt::format("/proc/self/fd/{}", file.get()), entry, true);
    }
    la_int64_t size = archive_entry_size(entry);
    for (;;) {
      const void* data = nullptr;
      std::size_t count = 0;
      la_int64_t offset = 0;
      int outcome = archive_read_data_block(reader_.get(), &data, &count, &offset);
      if (outcome == ARCHIVE_EOF) break;
      BATON_CHECK(check(outcome));
      if (offset < 0 || offset > size || static_cast<la_int64_t>(count) > size - offset)
        return fail(ErrorCode::Damaged, "more data than announced");
      BATON_CHECK(sys::pwrite_all(file.get(), {static_cast<const char*>(data), count},
                                  static_cast<std::uint64_t>(offset)));
    }
    if (::ftruncate(file.get(), size) != 0) return fail_errno("truncate");
    return apply(fmt::format("/proc/self/fd/{}", file.get()), entry, true);
  }

  // Null: it is in the archive.
  Result<const FileContent*> find_content(archive_entry* entry) const {
    const char* name = nullptr;
    const void* value = nullptr;
    std::size_t size = 0;
    archive_entry_xattr_reset(entry);
    while (archive_entry_xattr_next(entry, &name, &value, &size) == ARCHIVE_OK) {
      if (std::string_view(name) != kContentAttribute) continue;
      const char* digits = static_cast<const char*>(value);
      std::uint64_t number = 0;
      auto [end, error] = std::from_chars(digits, digits + size, number);
      if (error != std::errc() || end != digits + size || number >= elsewhere_.contents.size())
        return fail(ErrorCode::Damaged, "its content is not in the checkpoint");
      return &elsewhere_.contents[number];
    }
    return nullptr;
  }

  Status add_special(const Place& place, archive_entry* entry, mode_t mode) {
    int parent = place.parent.get();
    const char* name = place.name.c_str();
    if (S_ISLNK(mode)) {
      const char* target = archive_entry_symlink(entry);
      if (!target) return fail(ErrorCode::Damaged, "a link to nothing");
      if (::symlinkat(target, parent, name) != 0) return fail_errno("symlink");
    } else if (S_ISFIFO(mode)) {
      if (::mknodat(parent, name, S_IFIFO | 0600, 0) != 0) return fail_errno("mkfifo");
    } else if (tree_archive::is_harmless_device(mode, archive_entry_rdev(entry))) {
      if (::mknodat(parent, name, S_IFCHR | 0600, archive_entry_rdev(entry)) != 0)
        return fail_errno("mknod");
    } else {
      return fail(ErrorCode::Damaged, "a kind of file that an archive of ours never has");
    }
    return apply(fmt::format("/proc/self/fd/{}/{}", parent, name), entry, false);
  }

  // Owner first: a change of it clears set-user-id bits and capabilities. `follow`: the path ends
  // in a magic link of /proc to an open file rather than in a name.
  static Status apply(const std::string& path, archive_entry* entry, bool follow) {
    mode_t mode = archive_entry_mode(entry);
    auto owner = static_cast<uid_t>(archive_entry_uid(entry));
    auto group = static_cast<gid_t>(archive_entry_gid(entry));
    if (::fchownat(AT_FDCWD, path.c_str(), owner, group, follow ? 0 : AT_SYMLINK_NOFOLLOW) != 0)
      return fail_errno("chown");
    if (!S_ISLNK(mode) && ::chmod(path.c_str(), mode & 07777) != 0) return fail_errno("chmod");
    const char* name = nullptr;
    const void* value = nullptr;
    std::size_t size = 0;
    archive_entry_xattr_reset(entry);
    while (archive_entry_xattr_next(entry, &name, &value, &size) == ARCHIVE_OK) {
      if (!tree_archive::travels(name)) continue;
      int failed = follow ? ::setxattr(path.c_str(), name, value, size, 0)
                          : ::lsetxattr(path.c_str(), name, value, size, 0);
      if (failed) return fail_errno(fmt::format("set extended attribute {}", name));
    }
    timespec times[2] = {{archive_entry_atime(entry), archive_entry_atime_nsec(entry)},
                         {archive_entry_mtime(entry), archive_entry_mtime_nsec(entry)}};
    if (!archive_entry_atime_is_set(entry)) times[0].tv_nsec = UTIME_OMIT;
    if (::utimensat(AT_FDCWD, path.c_str(), times, follow ? 0 : AT_SYMLINK_NOFOLLOW) != 0)
      return fail_errno("set times");
    return {};
  }

  // Last, inner before outer: filling a folder changes its time, and its permissions may forbid it.
  Status finish_directories() {
    for (auto at = directories_.rbegin(); at != directories_.rend(); ++at) {
      auto directory = sys::open_beneath(root_, at->path, O_RDONLY | O_DIRECTORY);
      if (!directory)
        return fail(ErrorCode::Damaged, fmt::format("{}: replaced by a later entry", at->path));
      BATON_CHECK_CTX(
          apply(fmt::format("/proc/self/fd/{}", directory->get()), at->entry.get(), true),
          at->path);
    }
    return {};
  }

  const int root_;
  const ContentElsewhere& elsewhere_;
  std::unique_ptr<archive, ReaderFree> reader_;
  std::vector<Directory> directories_;
};

}  // namespace

Status extract_tree(const fs::path& archive, const fs::path& root,
                    const ContentElsewhere& elsewhere) {
  std::string what = fmt::format("unpack {}", archive.filename().string());
  auto file = sys::open_file(archive, O_RDONLY);
  if (!file) return fail(std::move(file).error().context(what));
  auto directory = sys::open_file(root, O_RDONLY | O_DIRECTORY);
  if (!directory) return fail(std::move(directory).error().context(what));
  TreeReader reader(directory->get(), elsewhere);
  BATON_CHECK_CTX(reader.run(file->get()), what);
  return {};
}

}  // namespace baton::store
