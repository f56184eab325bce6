#include "agent/engine/ready_packs.h"

#include "agent/engine/checkpoint_layout.h"

namespace baton::agent {

namespace fs = std::filesystem;

Result<std::shared_ptr<const ReadyPacks>> ReadyPacks::make(const fs::path& directory,
                                                           const ReadyPacks* earlier,
                                                           std::uint64_t budget,
                                                           const std::stop_token& given_up) {
  auto ready = std::make_shared<ReadyPacks>();
  const fs::path folder = directory / layout::packs_folder;
  std::error_code error;
  if (!fs::exists(folder, error)) return ready;
  // All of their sizes first: half of a checkpoint is of little use.
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    const std::string hash = entry.path().filename();
    auto& reader = ready->readers_[hash];
    if (earlier) reader = earlier->reader(hash);
    if (!reader) {
      BATON_TRY(reader, store::PackReader::open(entry.path()));
    }
    ready->bytes_ += reader->pages() * store::kPageBytes;
    if (ready->bytes_ > budget)
      return fail(ErrorCode::NoSpace,
                  fmt::format("{}: its memory decompressed takes more than {} MiB",
                              directory.string(), budget >> 20));
  }
  if (error) return fail_errno(folder.string(), error.value());
  for (auto& [hash, reader] : ready->readers_) {
    if (given_up.stop_requested()) return fail(ErrorCode::Cancelled, "it was given up");
    BATON_TRY(reader, reader->expanded());
  }
  return ready;
}

std::unique_ptr<store::PackReader> ReadyPacks::reader(const std::string& hash) const {
  const auto found = readers_.find(hash);
  return found == readers_.end() ? nullptr : found->second->another();
}

}  // namespace baton::agent
