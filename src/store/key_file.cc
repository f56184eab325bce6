#include "store/key_file.h"

#include <fmt/format.h>

#include <cstring>

#include "store/page_hash.h"

namespace baton::store::key_file {
namespace {

struct ClusterFile {
  std::array<char, 8> magic = {'B', 'A', 'T', 'N', 'K', 'E', 'Y', 'S'};
  std::uint32_t version = 1;
  std::uint32_t zero = 0;
  KeyId current{};
  KeyId previous{};
  PageHash hash;  // of what is before
};
static_assert(sizeof(ClusterFile) == 64);

struct JobHead {  // authenticated
  std::array<char, 8> magic = {'B', 'A', 'T', 'N', 'J', 'K', 'E', 'Y'};
  std::uint32_t version = 1;
  std::uint32_t zero = 0;
  std::uint64_t job = 0;
  KeyId wrapped_with{};
};
struct JobFile {
  JobHead head;
  std::array<unsigned char, Gcm::kNonceBytes> nonce{};
  std::array<unsigned char, Secret::kBytes> wrapped{};
  std::array<unsigned char, Gcm::kTagBytes> tag{};
  std::array<unsigned char, 4> unused{};
};
static_assert(sizeof(JobHead) == 40 && sizeof(JobFile) == 104);

template <typename File>
std::string_view as_text(const File& file) {
  return {reinterpret_cast<const char*>(&file), sizeof file};
}

template <typename File>
std::optional<File> as_file(std::string_view bytes) {
  File file;
  if (bytes.size() != sizeof file) return std::nullopt;
  std::memcpy(&file, bytes.data(), sizeof file);
  return file;
}

PageHash hash_of(const ClusterFile& file) {
  return hash_whole(as_text(file).substr(0, offsetof(ClusterFile, hash)));
}

JobKey key_from(JobId job, const Secret& data) {
  return {job, data, derive_secret(data, "", "baton job key 1: names")};
}

Secret wrapping_key(const Secret& cluster) {
  return derive_secret(cluster, "", "baton store key 1: wrap");
}

}  // namespace

KeyId id_of(const Secret& cluster) {
  KeyId id;
  derive(cluster, "", "baton store key 1: id", id.data(), id.size());
  return id;
}

std::string to_text(const KeyId& id) { return fmt::format("{:02x}", fmt::join(id, "")); }

std::string encode(const Cluster& cluster) {
  ClusterFile file;
  file.current = cluster.current;
  file.previous = cluster.previous;
  file.hash = hash_of(file);
  return std::string(as_text(file));
}

Result<Cluster> decode_cluster(std::string_view bytes) {
  const auto file = as_file<ClusterFile>(bytes);
  if (!file || file->magic != ClusterFile().magic || file->hash != hash_of(*file))
    return fail(ErrorCode::Damaged, "not whole");
  if (file->version != ClusterFile().version)
    return fail(ErrorCode::Damaged, "of a format that this version does not know");
  return Cluster{file->current, file->previous};
}

JobKey make(JobId job) { return key_from(job, random_secret()); }

std::string wrap(const JobKey& key, const Secret& cluster) {
  JobFile file;
  file.head.job = key.job.value;
  file.head.wrapped_with = id_of(cluster);
  fill_random(file.nonce.data(), file.nonce.size());
  Gcm gcm(wrapping_key(cluster), Gcm::Way::Seal);
  gcm.begin(file.nonce, as_text(file.head));
  gcm.update(key.data.data(), Secret::kBytes, file.wrapped.data());
  gcm.seal(file.tag.data());
  return std::string(as_text(file));
}

std::optional<KeyId> wrapped_with(std::string_view bytes) {
  const auto file = as_file<JobFile>(bytes);
  if (!file || file->head.magic != JobHead().magic) return std::nullopt;
  return file->head.wrapped_with;
}

Result<JobKey> unwrap(std::string_view bytes, JobId job, const Secret& cluster) {
  const auto file = as_file<JobFile>(bytes);
  if (!file || file->head.magic != JobHead().magic || file->head.version != JobHead().version ||
      file->unused != JobFile().unused)
    return fail(ErrorCode::Damaged, "not whole, or of a format that this version does not know");
  if (file->head.job != job.value)
    return fail(ErrorCode::Damaged, fmt::format("it is the key of job {}", file->head.job));
  Secret data;
  Gcm gcm(wrapping_key(cluster), Gcm::Way::Open);
  gcm.begin(file->nonce, as_text(file->head));
  gcm.update(file->wrapped.data(), Secret::kBytes, data.data());
  if (!gcm.open(file->tag.data()))
    return fail(ErrorCode::Damaged, "it does not unwrap with the store's key");
  return key_from(job, data);
}

}  // namespace baton::store::key_file
