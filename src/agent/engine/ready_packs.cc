#include "agent/engine/ready_packs.h"

#include <algorithm>
#include <functional>
#include <utility>
#include <vector>

#include "agent/engine/checkpoint_layout.h"

namespace baton::agent {

namespace fs = std::filesystem;

namespace {

// By their age on this node, which fetches the packs of each checkpoint as they come to be. (Those
// of the first that it fetches are in no order.)
Result<std::vector<fs::path>> packs_of(const fs::path& directory) {
  const fs::path folder = directory / layout::packs_folder;
  std::vector<std::pair<fs::file_time_type, fs::path>> packs;
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end;
       entry.increment(error)) {
    packs.emplace_back(entry->last_write_time(error), entry->path());
    if (error) break;
  }
  if (error && error != std::errc::no_such_file_or_directory)
    return fail_errno(folder.string(), error.value());
  std::ranges::sort(packs, std::greater());
  std::vector<fs::path> newest_first;
  for (auto& [time, path] : packs) newest_first.push_back(std::move(path));
  return newest_first;
}

}  // namespace

Result<std::shared_ptr<const ReadyPacks>> ReadyPacks::make(const fs::path& directory,
                                                           const ReadyPacks* earlier,
                                                           std::uint64_t budget,
                                                           const std::stop_token& given_up) {
  auto ready = std::make_shared<ReadyPacks>();
  if (budget == 0) return ready;  // nothing at all is to be kept
  BATON_TRY(const std::vector<fs::path> newest_first, packs_of(directory));
  bool room = true;
  for (const fs::path& path : newest_first) {
    if (given_up.stop_requested()) return fail(ErrorCode::Cancelled, "it was given up");
    const std::string hash = path.filename();
    auto reader = earlier ? earlier->reader(hash) : nullptr;
    if (!reader) {
      BATON_TRY(reader, store::PackReader::open(path));
    }
    const std::uint64_t bytes = reader->pages() * store::kPageBytes;
    room = room && ready->bytes_ + bytes <= budget;
    if (room) {
      BATON_TRY(reader, reader->expanded());
      ready->bytes_ += bytes;
    } else if (reader->is_expanded()) {
      BATON_TRY(reader, store::PackReader::open(path));
    }
    ready->readers_[hash] = std::move(reader);
  }
  return ready;
}

std::unique_ptr<store::PackReader> ReadyPacks::reader(const std::string& hash) const {
  const auto found = readers_.find(hash);
  return found == readers_.end() ? nullptr : found->second->another();
}

}  // namespace baton::agent
