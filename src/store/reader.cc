#include "store/reader.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "store/hash.h"
#include "store/sealed_file.h"
#include "sys/file.h"

namespace baton::store {
namespace {

constexpr std::uint64_t kMaxManifestBytes = 64u << 20;

// What `what` says behind the name that it begins with.
std::string_view without(std::string_view what, const std::string& name) {
  if (what.starts_with(name + ": ")) what.remove_prefix(name.size() + 2);
  return what;
}

}  // namespace

std::string shared_name(const JobKey* key, std::string_view hash) {
  return key ? keyed_hash(key->names, hash) : std::string(hash);
}

std::string name_on_disk(const JobKey* key, const std::string& path) {
  const auto hash = shared_file_hash(path);
  if (hash.empty() || !key) return path;
  return path.substr(0, path.find('/') + 1) + shared_name(key, hash);
}

Reader::Reader(CheckpointStore& store, CheckpointStore::Key id)
    : store_(store), id_(id), directory_(store.directory(id.first, id.second)) {}

Reader::~Reader() { store_.unpin(id_); }

std::string Reader::name_on_disk(const StoredFile& file) const {
  return store::name_on_disk(key_.get(), file.path);
}

Error Reader::damaged(std::string_view path, std::string_view why) const {
  return Error(ErrorCode::Damaged,
               fmt::format("checkpoint {} of job {}: {}: {}", id_.second, id_.first, path, why));
}

Error Reader::found_damaged(const StoredFile& file, std::string_view why) const {
  if (auto hash = shared_file_hash(file.path); !hash.empty())
    ::unlink(store_.shared_file(shared_name(key_.get(), hash)).c_str());
  return damaged(name_on_disk(file), why);
}

Status Reader::load() {
  auto manifest = read_manifest();
  const char* name = key_ || ::access((directory_ / kSealedManifestName).c_str(), F_OK) == 0
                         ? kSealedManifestName
                         : kManifestName;
  if (!manifest) {
    const bool absent = manifest.error().code() == ErrorCode::NotFound;
    return fail(
        damaged(name, absent ? "missing"
                             : without(manifest.error().message(), (directory_ / name).string())));
  }
  if (manifest->job != id_.first || manifest->number != id_.second)
    return fail(damaged(name, "it belongs to another checkpoint"));
  for (const auto& file : manifest->files)
    if (file.sealed.empty() != !key_) return fail(damaged(name, "a file's entry is wrong"));
  manifest_ = std::move(*manifest);
  return {};
}

// Sets the key as well, where it is encrypted.
Result<Manifest> Reader::read_manifest() {
  const fs::path sealed = directory_ / kSealedManifestName;
  auto file = sys::open_file(sealed, O_RDONLY | O_NOFOLLOW);
  if (!file && file.error().code() == ErrorCode::NotFound) {
    BATON_TRY(const std::string text,
              sys::read_file(directory_ / kManifestName, kMaxManifestBytes));
    return decode_manifest(text);
  }
  if (!file) return fail(std::move(file).error());
  if (!store_.keys_)
    return fail(ErrorCode::Damaged, "it is encrypted, and the store has no key (--store-key-file)");
  auto key = store_.keys_->find(id_.first);
  if (!key && key.error().code() == ErrorCode::NotFound)
    return fail(ErrorCode::Damaged, fmt::format("the key of job {} is missing", id_.first));
  if (!key) return fail(std::move(key).error());
  key_ = std::move(*key);
  BATON_TRY(const auto source, SealedSource::open(std::move(*file), sealed.string(), key_,
                                                  std::nullopt, manifest_purpose(id_.second)));
  BATON_TRY(const std::string text, sys::read_source(*source, kMaxManifestBytes));
  return decode_manifest(text);
}

Result<std::unique_ptr<sys::ByteSource>> Reader::open(const StoredFile& file) const {
  const fs::path path = place(file);
  auto fd = sys::open_file(path, O_RDONLY | O_NOFOLLOW);
  if (!fd && fd.error().code() == ErrorCode::NotFound) return fail(found_damaged(file, "missing"));
  if (!fd) return fail(damaged(name_on_disk(file), fd.error().message()));
  struct stat info {};
  if (::fstat(fd->get(), &info) != 0) return fail_errno(fmt::format("stat {}", path.string()));
  const std::uint64_t expected = key_ ? sealed_bytes(file.size) : file.size;
  if (!S_ISREG(info.st_mode) || static_cast<std::uint64_t>(info.st_size) != expected)
    return fail(
        found_damaged(file, fmt::format("has size {}, expected {}", info.st_size, expected)));
  if (!key_) return sys::open_source(std::move(*fd), path);
  auto source = SealedSource::open(std::move(*fd), path.string(), key_, file.sealed);
  if (!source) return fail(found_damaged(file, without(source.error().message(), path.string())));
  return std::move(*source);
}

sys::OpenSource Reader::sources() const {
  return [this](const std::string& path) -> Result<std::unique_ptr<sys::ByteSource>> {
    const auto file = std::ranges::find(manifest_.files, path, &StoredFile::path);
    if (file == manifest_.files.end())
      return fail(ErrorCode::NotFound,
                  fmt::format("checkpoint {} of job {} has no {}", id_.second, id_.first, path));
    return open(*file);
  };
}

Status Reader::read(const StoredFile& file, std::size_t part_bytes, const Sink& sink) const {
  BATON_TRY(const auto source, open(file));
  Hasher hasher;
  std::string part;
  std::uint64_t offset = 0;
  do {
    part.resize(std::min<std::uint64_t>(part_bytes, file.size - offset));
    if (auto status = source->read(part.data(), part.size(), offset); !status)
      return fail(found_damaged(file, without(status.error().message(), place(file).string())));
    hasher.update(part);
    offset += part.size();
    const bool last = offset == file.size;
    if (last && hasher.hex() != file.xxh3_128)
      return fail(found_damaged(file, "its checksum is wrong"));
    BATON_CHECK(sink(part, last));
  } while (offset < file.size);
  return {};
}

}  // namespace baton::store
