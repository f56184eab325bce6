#include "sys/byte_source.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "sys/file.h"

namespace baton::sys {
namespace {

class FileSource : public ByteSource {
 public:
  FileSource(fs::path path, Fd file, std::uint64_t size)
      : path_(std::move(path)), file_(std::move(file)), size_(size) {}

  std::uint64_t size() const override { return size_; }
  Status read(void* data, std::size_t size, std::uint64_t offset) const override {
    BATON_CHECK_CTX(pread_all(file_.get(), data, size, offset), path_.string());
    return {};
  }
  std::string name() const override { return path_.string(); }

 private:
  const fs::path path_;
  const Fd file_;
  const std::uint64_t size_;
};

}  // namespace

Result<std::unique_ptr<ByteSource>> open_source(const fs::path& path) {
  BATON_TRY(Fd file, open_file(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK));
  return open_source(std::move(file), path);
}

Result<std::unique_ptr<ByteSource>> open_source(Fd file, const fs::path& path) {
  struct stat info {};
  if (::fstat(file.get(), &info) != 0) return fail_errno(fmt::format("stat {}", path.string()));
  if (!S_ISREG(info.st_mode))
    return fail(ErrorCode::Damaged, fmt::format("{} is not a file", path.string()));
  return std::make_unique<FileSource>(path, std::move(file),
                                      static_cast<std::uint64_t>(info.st_size));
}

OpenSource sources_in(fs::path folder) {
  return
      [folder = std::move(folder)](const std::string& name) { return open_source(folder / name); };
}

OpenSource sources_below(OpenSource sources, std::string prefix) {
  return [sources = std::move(sources), prefix = std::move(prefix)](const std::string& name) {
    return sources(prefix + name);
  };
}

Result<std::string> read_source(const ByteSource& source, std::uint64_t max_bytes) {
  if (source.size() > max_bytes)
    return fail(ErrorCode::InvalidArgument,
                fmt::format("read {}: larger than {} bytes", source.name(), max_bytes));
  std::string content(source.size(), '\0');
  BATON_CHECK(source.read(content.data(), content.size(), 0));
  return content;
}

}  // namespace baton::sys
