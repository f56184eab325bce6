#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <fstream>
#include <functional>
#include <map>
#include <set>

#include "store/hash.h"
#include "store/tree_archive.h"
#include "sys/file.h"

namespace baton::store {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

// Everything about one file that must be the same afterwards.
std::string describe(const fs::path& path) {
  struct stat info {};
  if (::lstat(path.c_str(), &info) != 0) return "missing";
  std::string text = fmt::format("mode {:o} owner {}:{} mtime {}.{}", info.st_mode, info.st_uid,
                                 info.st_gid, info.st_mtim.tv_sec, info.st_mtim.tv_nsec);
  if (!S_ISDIR(info.st_mode)) text += fmt::format(" links {} size {}", info.st_nlink, info.st_size);
  if (S_ISCHR(info.st_mode))
    text += fmt::format(" device {}:{}", major(info.st_rdev), minor(info.st_rdev));
  if (S_ISLNK(info.st_mode)) text += " -> " + fs::read_symlink(path).string();
  if (S_ISREG(info.st_mode))
    text += fmt::format(" hash {}", std::hash<std::string>{}(*sys::read_file(path)));
  char names[4096];
  ssize_t size = ::llistxattr(path.c_str(), names, sizeof names);
  std::map<std::string, std::string> attributes;
  for (const char* name = names; size > 0 && name < names + size; name += std::strlen(name) + 1) {
    char value[4096];
    ssize_t length = ::lgetxattr(path.c_str(), name, value, sizeof value);
    attributes[name] = std::string(value, static_cast<std::size_t>(std::max<ssize_t>(length, 0)));
  }
  for (const auto& [name, value] : attributes) text += fmt::format(" {}={}", name, value);
  return text;
}

std::map<std::string, std::string> describe_tree(const fs::path& root) {
  std::map<std::string, std::string> result = {{".", describe(root)}};
  for (const auto& entry : fs::recursive_directory_iterator(root))
    result[entry.path().lexically_relative(root)] = describe(entry.path());
  return result;
}

void write_file(const fs::path& path, std::string_view content) { std::ofstream(path) << content; }

class TreeArchive : public testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "owners, devices and trusted attributes need root";
    std::string pattern = "/var/tmp/baton-archive-XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    directory_ = pattern;
    fs::create_directories(source_ = directory_ / "source");
    fs::create_directories(target_ = directory_ / "target");
    archive_ = directory_ / "tree.tar";
  }
  void TearDown() override {
    if (directory_.empty()) return;
    EXPECT_TRUE(sys::remove_tree(directory_));
  }

  void expect_round_trip() {
    auto size = archive_tree(source_, archive_);
    ASSERT_TRUE(size) << size.error().message();
    auto extracted = extract_tree(archive_, target_);
    ASSERT_TRUE(extracted) << extracted.error().message();
    EXPECT_EQ(describe_tree(target_), describe_tree(source_));
  }

  // An archive as nobody of ours writes it.
  void write_hostile(const std::function<void(archive*, archive_entry*)>& fill) {
    archive* writer = archive_write_new();
    archive_write_set_format_pax(writer);
    ASSERT_EQ(archive_write_open_filename(writer, archive_.c_str()), ARCHIVE_OK);
    archive_entry* entry = archive_entry_new();
    fill(writer, entry);
    archive_entry_free(entry);
    archive_write_free(writer);
  }
  static void add(archive* writer, archive_entry* entry, const std::string& path, mode_t mode,
                  const std::string& content = "", const std::string& link = "") {
    archive_entry_clear(entry);
    archive_entry_set_pathname(entry, path.c_str());
    archive_entry_set_mode(entry, mode);
    archive_entry_set_size(entry, static_cast<la_int64_t>(content.size()));
    if (S_ISLNK(mode)) archive_entry_set_symlink(entry, link.c_str());
    if (S_ISREG(mode) && !link.empty()) archive_entry_set_hardlink(entry, link.c_str());
    archive_write_header(writer, entry);
    archive_write_data(writer, content.data(), content.size());
  }
  void expect_refused(std::string_view says) {
    auto extracted = extract_tree(archive_, target_);
    ASSERT_FALSE(extracted);
    EXPECT_EQ(extracted.error().code(), ErrorCode::Damaged);
    EXPECT_THAT(extracted.error().message(), HasSubstr(says));
    EXPECT_FALSE(fs::exists(directory_ / "escaped"));
  }

  fs::path directory_, source_, target_, archive_;
};

TEST_F(TreeArchive, KeepsEverythingAboutFiles) {
  fs::create_directories(source_ / "a/b");
  write_file(source_ / "a/b/file", "content");
  write_file(source_ / "a/empty", "");
  ASSERT_EQ(::chown((source_ / "a/b/file").c_str(), 12345, 54321), 0);
  ASSERT_EQ(::chmod((source_ / "a/b/file").c_str(), 04751), 0);
  ASSERT_EQ(::link((source_ / "a/b/file").c_str(), (source_ / "a/same").c_str()), 0);
  ASSERT_EQ(::symlink("/nowhere/at all", (source_ / "a/link").c_str()), 0);
  ASSERT_EQ(::lchown((source_ / "a/link").c_str(), 7, 8), 0);
  ASSERT_EQ(::mkfifo((source_ / "a/fifo").c_str(), 0640), 0);
  ASSERT_EQ(::setxattr((source_ / "a/b/file").c_str(), "user.note", "x\0y", 3, 0), 0);
  ASSERT_EQ(::setxattr((source_ / "a/b").c_str(), "trusted.mark", "1", 1, 0), 0);
  ASSERT_EQ(::chmod((source_ / "a/b").c_str(), 0500), 0);
  timespec times[2] = {{1'000'000'000, 1}, {1'600'000'000, 123'456'789}};
  for (const char* path : {"a/b/file", "a/link", "a/b", "a", "."})
    ASSERT_EQ(::utimensat(AT_FDCWD, (source_ / path).c_str(), times, AT_SYMLINK_NOFOLLOW), 0);
  expect_round_trip();
}

TEST_F(TreeArchive, KeepsTheMarksOfAnOverlayAndDropsWhatTiesItToANode) {
  fs::create_directories(source_ / "opaque");
  write_file(source_ / "copied-up", "x");
  ASSERT_EQ(::mknod((source_ / "whiteout").c_str(), S_IFCHR, 0), 0);
  ASSERT_EQ(::setxattr((source_ / "opaque").c_str(), "trusted.overlay.opaque", "y", 1, 0), 0);
  for (const char* name : {"trusted.overlay.origin", "trusted.overlay.impure",
                           "trusted.overlay.nlink", "trusted.overlay.uuid"})
    ASSERT_EQ(::setxattr((source_ / "copied-up").c_str(), name, "here", 4, 0), 0);
  ASSERT_TRUE(archive_tree(source_, archive_));
  auto extracted = extract_tree(archive_, target_);
  ASSERT_TRUE(extracted) << extracted.error().message();
  EXPECT_THAT(describe(target_ / "opaque"), HasSubstr("trusted.overlay.opaque=y"));
  EXPECT_THAT(describe(target_ / "whiteout"), HasSubstr("device 0:0"));
  EXPECT_THAT(describe(target_ / "copied-up"), testing::Not(HasSubstr("overlay")));
}

TEST_F(TreeArchive, KeepsNamesOfAnyBytesAndAnyLength) {
  fs::path deep = source_;
  for (int i = 0; i < 20; ++i)
    fs::create_directories(deep /= std::string(60, static_cast<char>('a' + i)));
  write_file(deep / "end", "deep");
  for (const char* name :
       {"new\nline", "quote\"'", "\xff\xfe", "umlaut \xc3\xa4", " ", "-", "a\\b", "\x01"})
    write_file(source_ / name, name);
  write_file(source_ / std::string(255, 'n'), "long");
  expect_round_trip();
}

TEST_F(TreeArchive, KeepsHoles) {
  constexpr off_t size = off_t{3} << 30;
  for (const char* name : {"all-hole", "islands"}) {
    int file = ::open((source_ / name).c_str(), O_RDWR | O_CREAT, 0600);
    ASSERT_EQ(::ftruncate(file, size), 0);
    if (std::string(name) == "islands") {
      ASSERT_EQ(::pwrite(file, "begin", 5, 0), 5);
      ASSERT_EQ(::pwrite(file, "middle", 6, size / 2), 6);
      ASSERT_EQ(::pwrite(file, "end", 3, size - 3), 3);
    }
    ::close(file);
  }
  auto archived = archive_tree(source_, archive_);
  ASSERT_TRUE(archived) << archived.error().message();
  EXPECT_LT(*archived, 200'000u);
  ASSERT_TRUE(extract_tree(archive_, target_));
  for (const char* name : {"all-hole", "islands"}) {
    struct stat info {};
    ASSERT_EQ(::stat((target_ / name).c_str(), &info), 0);
    EXPECT_EQ(info.st_size, size);
    EXPECT_LT(info.st_blocks, 100);
  }
  char text[7] = {};
  int file = ::open((target_ / "islands").c_str(), O_RDONLY);
  EXPECT_EQ(::pread(file, text, 6, size / 2), 6);
  EXPECT_STREQ(text, "middle");
  EXPECT_EQ(::pread(file, text, 6, size - 3), 3);
  ::close(file);
}

// With everything else about it in the archive, and its number beside.
TEST_F(TreeArchive, ContentIsKeptElsewhere) {
  const std::string zeroes(kFileChunkBytes, '\0');
  const std::string island = std::string(8192, '\0') + "island" + std::string(9000, '\0');
  const std::string content = std::string(kFileChunkBytes, 'a') + zeroes + island;
  fs::create_directories(directory_ / "chunks");
  FileContent table{content.size(), false, {}};
  for (std::size_t at = 0; at < content.size(); at += kFileChunkBytes) {
    const std::string chunk = content.substr(at, kFileChunkBytes);
    table.chunks.push_back(is_zero(chunk) ? "" : hash_bytes(chunk));
    if (!is_zero(chunk)) write_file(directory_ / "chunks" / table.chunks.back(), chunk);
  }
  EXPECT_TRUE(is_well_formed(table));
  write_file(source_ / "large", content);
  write_file(source_ / "small", "small");
  ASSERT_EQ(::link((source_ / "large").c_str(), (source_ / "same").c_str()), 0);
  ASSERT_EQ(::chown((source_ / "large").c_str(), 12345, 54321), 0);
  ASSERT_EQ(::chmod((source_ / "large").c_str(), 04751), 0);
  // A file's own attribute of this name must not stand for a number.
  ASSERT_EQ(::setxattr((source_ / "small").c_str(), kContentAttribute, "0", 1, 0), 0);
  TreeArchiveOptions options;
  std::vector<std::string> asked;
  options.keep_elsewhere = [&](int file, const std::string& path,
                               const struct stat& info) -> Result<std::optional<std::uint64_t>> {
    struct stat opened {};
    EXPECT_EQ(::fstat(file, &opened), 0);
    EXPECT_EQ(opened.st_ino, info.st_ino);
    asked.push_back(path);
    if (path == "small") return std::nullopt;
    return 0;
  };
  auto size = archive_tree(source_, archive_, options);
  ASSERT_TRUE(size) << size.error().message();
  EXPECT_LT(*size, 20'000u);
  EXPECT_THAT(asked, testing::ElementsAre("large", "small"));
  ASSERT_EQ(::removexattr((source_ / "small").c_str(), kContentAttribute), 0);
  for (bool sparse : {false, true}) {
    table.sparse = sparse;
    auto extracted = extract_tree(archive_, target_, {{table}, directory_ / "chunks"});
    ASSERT_TRUE(extracted) << extracted.error().message();
    EXPECT_EQ(describe_tree(target_), describe_tree(source_));
    struct stat info {};
    ASSERT_EQ(::stat((target_ / "large").c_str(), &info), 0);
    EXPECT_EQ(info.st_blocks * 512 < info.st_size, sparse);
  }
  EXPECT_EQ(extract_tree(archive_, target_).error().code(), ErrorCode::Damaged);
  FileContent shorter = table;
  shorter.chunks.pop_back();
  EXPECT_EQ(extract_tree(archive_, target_, {{shorter}, directory_ / "chunks"}).error().code(),
            ErrorCode::Damaged);
  write_file(directory_ / "chunks" / table.chunks[0], std::string(kFileChunkBytes, 'b'));
  EXPECT_EQ(extract_tree(archive_, target_, {{table}, directory_ / "chunks"}).error().code(),
            ErrorCode::Damaged);
  fs::remove(directory_ / "chunks" / table.chunks[0]);
  EXPECT_EQ(extract_tree(archive_, target_, {{table}, directory_ / "chunks"}).error().code(),
            ErrorCode::Damaged);
}

TEST_F(TreeArchive, LeavesOutSocketsAndWhatIsExcluded) {
  int socket = ::socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address{AF_UNIX, {}};
  std::strcpy(address.sun_path, (source_ / "sock").c_str());
  ASSERT_EQ(::bind(socket, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  ::close(socket);
  fs::create_directories(source_ / "skip/below");
  write_file(source_ / "skip/below/x", "x");
  write_file(source_ / "skipped-not", "y");
  ASSERT_TRUE(archive_tree(source_, archive_, {.exclude = {"skip"}}));
  ASSERT_TRUE(extract_tree(archive_, target_));
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(target_)) names.insert(entry.path().filename());
  EXPECT_EQ(names, std::set<std::string>{"skipped-not"});
}

TEST_F(TreeArchive, RefusesToArchiveADisk) {
  ASSERT_EQ(::mknod((source_ / "disk").c_str(), S_IFBLK, makedev(8, 0)), 0);
  auto archived = archive_tree(source_, archive_);
  ASSERT_FALSE(archived);
  EXPECT_EQ(archived.error().code(), ErrorCode::Refused);
  EXPECT_THAT(archived.error().message(), HasSubstr("disk"));
  EXPECT_FALSE(fs::exists(archive_));
}

TEST_F(TreeArchive, ReplacesWhatHasTheSameNameAndKeepsTheRest) {
  write_file(source_ / "both", "new");
  write_file(target_ / "both", "old and longer");
  write_file(target_ / "mine", "mine");
  ASSERT_TRUE(archive_tree(source_, archive_));
  ASSERT_TRUE(extract_tree(archive_, target_));
  EXPECT_EQ(*sys::read_file(target_ / "both"), "new");
  EXPECT_EQ(*sys::read_file(target_ / "mine"), "mine");
}

TEST_F(TreeArchive, RefusesPathsThatLeaveTheTree) {
  for (const char* path : {"../escaped", "a/../../escaped", "/escaped", "..", "a/.."}) {
    SCOPED_TRACE(path);
    write_hostile([&](archive* writer, archive_entry* entry) {
      add(writer, entry, "a", S_IFDIR | 0755);
      add(writer, entry, path, S_IFREG | 0644, "gotcha");
    });
    expect_refused("");
  }
  EXPECT_FALSE(fs::exists("/escaped"));
}

TEST_F(TreeArchive, RefusesToWriteThroughALink) {
  write_hostile([&](archive* writer, archive_entry* entry) {
    add(writer, entry, "door", S_IFLNK | 0777, "", directory_);
    add(writer, entry, "door/escaped", S_IFREG | 0644, "gotcha");
  });
  expect_refused("door/escaped");
}

TEST_F(TreeArchive, ReplacesALinkInsteadOfWritingToWhatItPointsTo) {
  write_file(directory_ / "victim", "untouched");
  write_hostile([&](archive* writer, archive_entry* entry) {
    add(writer, entry, "file", S_IFLNK | 0777, "", directory_ / "victim");
    add(writer, entry, "file", S_IFREG | 0644, "gotcha");
  });
  ASSERT_TRUE(extract_tree(archive_, target_));
  EXPECT_EQ(*sys::read_file(directory_ / "victim"), "untouched");
}

TEST_F(TreeArchive, RefusesHardLinksToOutside) {
  write_file(directory_ / "victim", "secret");
  for (const std::string& victim : {std::string("../victim"), (directory_ / "victim").string()}) {
    write_hostile([&](archive* writer, archive_entry* entry) {
      add(writer, entry, "mine", S_IFREG | 0644, "", victim);
    });
    expect_refused("");
  }
}

TEST_F(TreeArchive, RefusesDevices) {
  write_hostile([&](archive* writer, archive_entry* entry) {
    archive_entry_set_pathname(entry, "disk");
    archive_entry_set_mode(entry, S_IFBLK | 0666);
    archive_entry_set_rdev(entry, makedev(8, 0));
    archive_write_header(writer, entry);
  });
  expect_refused("disk");
}

TEST_F(TreeArchive, KnowsAnArchiveThatWasCutShort) {
  write_file(source_ / "big", std::string(100'000, 'x'));
  ASSERT_TRUE(archive_tree(source_, archive_));
  for (std::uintmax_t size : {0u, 100u, 5'000u, 60'000u}) {
    fs::resize_file(archive_, size);
    if (size == 0) continue;
    auto extracted = extract_tree(archive_, target_);
    ASSERT_FALSE(extracted) << size;
    EXPECT_EQ(extracted.error().code(), ErrorCode::Damaged);
    ASSERT_TRUE(archive_tree(source_, archive_));
  }
}

}  // namespace
}  // namespace baton::store
