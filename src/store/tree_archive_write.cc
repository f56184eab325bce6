#include <dirent.h>
#include <fcntl.h>
#include <sys/xattr.h>

#include <algorithm>
#include <map>
#include <utility>

#include "base/fd.h"
#include "store/tree_archive.h"
#include "store/tree_archive_format.h"
#include "sys/file.h"

namespace baton::store {
namespace {

namespace fs = std::filesystem;
using tree_archive::Entry;

constexpr std::size_t block_bytes = 1 << 20;

struct WriterFree {
  void operator()(archive* writer) const { archive_write_free(writer); }
};

struct DirectoryClose {
  void operator()(DIR* directory) const { ::closedir(directory); }
};

// The kernel offers no lgetxattrat(); through /proc a name below a descriptor is a path.
std::string path_below(int directory, const std::string& name) {
  return fmt::format("/proc/self/fd/{}/{}", directory, name);
}

Result<std::vector<std::string>> sorted_names(int directory) {
  Fd copy(::openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  std::unique_ptr<DIR, DirectoryClose> stream(copy.valid() ? ::fdopendir(copy.get()) : nullptr);
  if (!stream) return fail_errno("read directory");
  copy.release();
  std::vector<std::string> names;
  errno = 0;
  while (const dirent* entry = ::readdir(stream.get())) {
    std::string_view name = entry->d_name;
    if (name != "." && name != "..") names.emplace_back(name);
  }
  if (errno != 0) return fail_errno("read directory");
  std::ranges::sort(names);
  return names;
}

class TreeWriter {
 public:
  TreeWriter(const TreeArchiveOptions& options, dev_t device)
      : options_(options), device_(device) {}

  Status open(const fs::path& path) {
    writer_.reset(archive_write_new());
    archive_write_set_format_pax(writer_.get());
    // Names are bytes, whatever the locale.
    archive_write_set_options(writer_.get(), "hdrcharset=BINARY");
    archive_write_set_bytes_per_block(writer_.get(), block_bytes);
    archive_write_set_bytes_in_last_block(writer_.get(), 1);
    BATON_TRY(file_, sys::open_file(path, O_WRONLY | O_CREAT | O_TRUNC, 0600));
    return check(archive_write_open_fd(writer_.get(), file_.get()));
  }

  Status add_root(int directory) {
    struct stat info {};
    if (::fstat(directory, &info) != 0) return fail_errno("stat");
    Entry entry = describe(".", info);
    BATON_CHECK(add_attributes(entry.get(), fmt::format("/proc/self/fd/{}/.", directory)));
    BATON_CHECK(check(archive_write_header(writer_.get(), entry.get())));
    return add_children(directory, "");
  }

  Result<std::uint64_t> finish() {
    BATON_CHECK(check(archive_write_close(writer_.get())));
    struct stat info {};
    if (::fstat(file_.get(), &info) != 0) return fail_errno("stat");
    return static_cast<std::uint64_t>(info.st_size);
  }

 private:
  Status check(int outcome) {
    // Warnings are about names that can't be converted; they are stored as bytes.
    if (outcome >= ARCHIVE_WARN) return {};
    int error_number = archive_errno(writer_.get());
    const char* text = archive_error_string(writer_.get());
    if (error_number == ENOSPC || error_number == EDQUOT)
      return fail_errno("write archive", error_number);
    return fail(ErrorCode::Internal, fmt::format("write archive: {}", text ? text : "unknown"));
  }

  static Entry describe(const std::string& path, const struct stat& info) {
    Entry entry(archive_entry_new());
    archive_entry_copy_pathname(entry.get(), path.c_str());
    archive_entry_set_mode(entry.get(), info.st_mode);
    archive_entry_set_uid(entry.get(), info.st_uid);
    archive_entry_set_gid(entry.get(), info.st_gid);
    archive_entry_set_mtime(entry.get(), info.st_mtim.tv_sec, info.st_mtim.tv_nsec);
    archive_entry_set_atime(entry.get(), info.st_atim.tv_sec, info.st_atim.tv_nsec);
    return entry;
  }

  static Status add_attributes(archive_entry* entry, const std::string& path) {
    std::string names(4096, '\0');
    ssize_t size = ::llistxattr(path.c_str(), names.data(), names.size());
    if (size < 0 && errno == ERANGE) {
      names.resize(XATTR_LIST_MAX);
      size = ::llistxattr(path.c_str(), names.data(), names.size());
    }
    if (size < 0 && errno == ENOTSUP) return {};
    if (size < 0) return fail_errno("list extended attributes");
    std::string value(XATTR_SIZE_MAX, '\0');
    for (const char* name = names.data(); name < names.data() + size;
         name += std::strlen(name) + 1) {
      if (!tree_archive::travels(name)) continue;
      ssize_t length = ::lgetxattr(path.c_str(), name, value.data(), value.size());
      if (length < 0 && errno == ENODATA) continue;
      if (length < 0) return fail_errno(fmt::format("read extended attribute {}", name));
      archive_entry_xattr_add_entry(entry, name, value.data(), static_cast<std::size_t>(length));
    }
    return {};
  }

  bool excluded(const std::string& path) const {
    return std::ranges::find(options_.exclude, path) != options_.exclude.end();
  }

  Status add_children(int directory, const std::string& path) {
    BATON_TRY(auto names, sorted_names(directory));
    for (const auto& name : names) {
      std::string below = path.empty() ? name : path + "/" + name;
      if (excluded(below)) continue;
      if (auto status = add(directory, name, below); !status)
        return fail(std::move(status).error().context(below));
    }
    return {};
  }

  Status add(int parent, const std::string& name, const std::string& path) {
    struct stat info {};
    if (::fstatat(parent, name.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0) return fail_errno("stat");
    if (S_ISSOCK(info.st_mode)) return {};
    bool device = S_ISCHR(info.st_mode) || S_ISBLK(info.st_mode);
    if (device && !tree_archive::is_harmless_device(info.st_mode, info.st_rdev))
      return fail(ErrorCode::Refused, "a device node in the private filesystem can't travel");
    if (S_ISDIR(info.st_mode)) return add_directory(parent, name, path, info);

    Entry entry = describe(path, info);
    if (info.st_nlink > 1) {
      auto [first, is_new] = links_.try_emplace({info.st_dev, info.st_ino}, path);
      if (!is_new) {
        archive_entry_copy_hardlink(entry.get(), first->second.c_str());
        return check(archive_write_header(writer_.get(), entry.get()));
      }
    }
    BATON_CHECK(add_attributes(entry.get(), path_below(parent, name)));
    if (S_ISREG(info.st_mode)) return add_file(parent, name, path, entry.get(), info);
    if (device) archive_entry_set_rdev(entry.get(), info.st_rdev);
    if (S_ISLNK(info.st_mode)) {
      std::string target(static_cast<std::size_t>(std::max<off_t>(info.st_size, 4095)) + 1, '\0');
      ssize_t length = ::readlinkat(parent, name.c_str(), target.data(), target.size());
      if (length < 0) return fail_errno("readlink");
      target.resize(static_cast<std::size_t>(length));
      archive_entry_copy_symlink(entry.get(), target.c_str());
    }
    return check(archive_write_header(writer_.get(), entry.get()));
  }

  Status add_directory(int parent, const std::string& name, const std::string& path,
                       const struct stat& info) {
    Fd directory(::openat(parent, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!directory.valid()) return fail_errno("open");
    Entry entry = describe(path, info);
    BATON_CHECK(add_attributes(entry.get(), path_below(parent, name)));
    BATON_CHECK(check(archive_write_header(writer_.get(), entry.get())));
    if (info.st_dev != device_) return {};
    return add_children(directory.get(), path);
  }

  Status add_file(int parent, const std::string& name, const std::string& path,
                  archive_entry* entry, const struct stat& info) {
    Fd file(::openat(parent, name.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NOATIME));
    if (!file.valid()) return fail_errno("open");
    if (options_.keep_elsewhere) {
      BATON_TRY(const auto number, options_.keep_elsewhere(file.get(), path, info));
      if (number) return add_reference(entry, *number);
    }
    archive_entry_set_size(entry, info.st_size);
    auto extents = data_extents(file.get(), info);
    if (info.st_blocks * 512 >= info.st_size)
      extents.assign(1, {0, info.st_size});
    else
      for (auto [start, length] : extents) archive_entry_sparse_add_entry(entry, start, length);
    // A file that is one hole needs an entry of its own to be known as sparse.
    if (extents.empty() && info.st_size > 0) archive_entry_sparse_add_entry(entry, info.st_size, 0);
    BATON_CHECK(check(archive_write_header(writer_.get(), entry)));
    return copy_data(file.get(), extents, info.st_size);
  }

  Status add_reference(archive_entry* entry, std::uint64_t number) {
    const std::string digits = fmt::format("{}", number);
    archive_entry_xattr_add_entry(entry, kContentAttribute, digits.data(), digits.size());
    archive_entry_set_size(entry, 0);
    return check(archive_write_header(writer_.get(), entry));
  }

  using Extents = std::vector<std::pair<off_t, off_t>>;

  static Extents data_extents(int file, const struct stat& info) {
    Extents extents;
    for (off_t at = 0; at < info.st_size;) {
      off_t data = ::lseek(file, at, SEEK_DATA);
      if (data < 0) break;  // ENXIO: nothing but a hole from here on
      off_t hole = ::lseek(file, data, SEEK_HOLE);
      if (hole < 0 || hole > info.st_size) hole = info.st_size;
      if (data >= info.st_size) break;
      extents.emplace_back(data, hole - data);
      at = hole;
    }
    return extents;
  }

  // libarchive wants the holes' bytes as well, but only counts them.
  Status copy_data(int file, const Extents& extents, off_t size) {
    buffer_.resize(block_bytes);
    auto feed = [&](off_t count) -> Status {
      ssize_t written =
          archive_write_data(writer_.get(), buffer_.data(), static_cast<std::size_t>(count));
      if (written == count) return {};
      if (written < 0) return check(ARCHIVE_FATAL);
      return fail(ErrorCode::Internal, "write archive: an entry is longer than announced");
    };
    off_t at = 0;
    auto skip_to = [&](off_t end) -> Status {
      for (; at < end;) {
        off_t count = std::min<off_t>(end - at, static_cast<off_t>(block_bytes));
        BATON_CHECK(feed(count));
        at += count;
      }
      return {};
    };
    for (auto [start, length] : extents) {
      BATON_CHECK(skip_to(start));
      for (off_t end = start + length; at < end;) {
        auto wanted = std::min<std::size_t>(static_cast<std::size_t>(end - at), block_bytes);
        BATON_CHECK_CTX(
            sys::pread_all(file, buffer_.data(), wanted, static_cast<std::uint64_t>(at)),
            "changed while it was archived");
        BATON_CHECK(feed(static_cast<off_t>(wanted)));
        at += static_cast<off_t>(wanted);
      }
    }
    return skip_to(size);
  }

  const TreeArchiveOptions& options_;
  dev_t device_;
  Fd file_;
  std::unique_ptr<archive, WriterFree> writer_;
  std::map<std::pair<dev_t, ino_t>, std::string> links_;
  std::vector<char> buffer_;
};

}  // namespace

Result<std::uint64_t> archive_tree(const fs::path& root, const fs::path& archive,
                                   const TreeArchiveOptions& options) {
  auto work = [&]() -> Result<std::uint64_t> {
    BATON_TRY(Fd directory, sys::open_file(root, O_RDONLY | O_DIRECTORY));
    struct stat info {};
    if (::fstat(directory.get(), &info) != 0) return fail_errno("stat");
    TreeWriter writer(options, info.st_dev);
    BATON_CHECK(writer.open(archive));
    BATON_CHECK(writer.add_root(directory.get()));
    return writer.finish();
  };
  auto size = work();
  if (!size) {
    ::unlink(archive.c_str());
    return fail(std::move(size).error().context(fmt::format("archive {}", root.string())));
  }
  return size;
}

}  // namespace baton::store
