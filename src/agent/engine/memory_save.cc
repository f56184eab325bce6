#include "agent/engine/memory_save.h"

#include <fcntl.h>

#include <algorithm>
#include <array>
#include <map>
#include <set>

#include "agent/engine/base_files.h"
#include "agent/engine/checkpoint_layout.h"
#include "sys/file.h"

namespace baton::agent {
namespace {

namespace fs = std::filesystem;
using Stores = std::set<PageStore*>;
using Counts = std::map<std::uint32_t, std::uint64_t>;  // by a pack's number

// A pack is rewritten when no more than a quarter of it is needed, and small ones are joined when
// there are many: so a checkpoint is bounded by four times its pages and some hundred files.
constexpr std::uint64_t mostly_dead = 4;
constexpr std::uint32_t small_pack_pages = store::kPackPagesMax / 4;
constexpr std::size_t small_packs_max = 256;
// Pages that one checkpoint may rewrite, beyond as many as it adds.
constexpr std::uint64_t rewrite_pages_min = 4096;

Counts count_live(const PagePacks& packs, const Stores& stores) {
  Counts live;
  for (const auto& [number, pack] : packs.packs()) live[number] = 0;
  for (PageStore* store : stores)
    (void)store->for_each([&](PageLocation& location, const store::PageHash&) -> Status {
      ++live[location.pack];
      return {};
    });
  return live;
}

// Packs to be rewritten, those that yield most first.
std::set<std::uint32_t> choose_victims(const PagePacks& packs, const Counts& live,
                                       std::uint64_t budget) {
  std::vector<std::pair<std::uint64_t, std::uint32_t>> dead, small;
  for (const auto& [number, pack] : packs.packs()) {
    const std::uint64_t count = live.at(number);
    if (pack.hash.empty() || count == 0) continue;
    if (count * mostly_dead <= pack.pages)
      dead.emplace_back(count, number);
    else if (pack.pages < small_pack_pages)
      small.emplace_back(count, number);
  }
  std::ranges::sort(dead);
  std::ranges::sort(small);
  if (small.size() > small_packs_max) dead.insert(dead.end(), small.begin(), small.end());
  std::set<std::uint32_t> victims;
  for (auto [count, number] : dead) {
    if (count > budget) break;
    budget -= count;
    victims.insert(number);
  }
  return victims;
}

Status rewrite_some(PagePacks& packs, const Stores& stores) {
  const std::uint64_t budget = std::max(rewrite_pages_min, packs.added().pages);
  const auto victims = choose_victims(packs, count_live(packs, stores), budget);
  std::map<std::uint32_t, std::unique_ptr<store::PackReader>> readers;
  for (std::uint32_t number : victims) {
    BATON_TRY(readers[number], store::PackReader::open(packs.path(packs.packs().at(number))));
  }
  std::array<char, store::kPageBytes> page;
  for (PageStore* store : stores)
    BATON_CHECK(store->for_each([&](PageLocation& location, const store::PageHash& hash) -> Status {
      auto reader = readers.find(location.pack);
      if (reader == readers.end()) return {};
      BATON_CHECK(reader->second->read(location.page, 1, page.data()));
      BATON_TRY(location, packs.add(page.data(), hash));
      return {};
    }));
  return {};
}

Status make_folders(const fs::path& directory) {
  BATON_CHECK(sys::make_directories(directory / layout::memory_folder, 0700));
  return sys::make_directories(directory / layout::packs_folder, 0700);
}

Status link_packs(const PagePacks& packs, const std::set<std::string>& wanted,
                  const fs::path& directory) {
  const fs::path folder = directory / layout::packs_folder;
  std::set<std::string> linked;  // before the freeze
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end;
       entry.increment(error))
    linked.insert(entry->path().filename());
  if (error) return fail_errno(folder.string(), error.value());
  for (const std::string& hash : linked)
    if (!wanted.contains(hash)) BATON_CHECK(sys::remove_tree(folder / hash));
  for (const auto& [number, pack] : packs.packs())
    if (wanted.contains(pack.hash) && linked.insert(pack.hash).second)
      BATON_CHECK(link_or_copy(packs.path(pack), folder / pack.hash));
  return {};
}

Status drop_others(PagePacks& packs, const std::set<std::string>& needed) {
  std::vector<std::uint32_t> dead;
  for (const auto& [number, pack] : packs.packs())
    if (!needed.contains(pack.hash)) dead.push_back(number);
  for (std::uint32_t number : dead) BATON_CHECK(packs.drop(number));
  return {};
}

}  // namespace

Status prepare_memory(PagePacks& packs, std::span<PageStore* const> stores,
                      const fs::path& directory) {
  BATON_CHECK(packs.seal());
  std::set<std::string> needed;
  for (PageStore* store : stores) {
    const auto& named = store->draft_map();
    needed.insert(named.begin(), named.end());
  }
  BATON_CHECK(make_folders(directory));
  return link_packs(packs, needed, directory);
}

Result<SavedMemory> save_memory(PagePacks& packs, std::span<const MemoryToSave> memory,
                                const fs::path& directory, bool held) {
  Stores stores;
  for (const MemoryToSave& process : memory) {
    if (!stores.insert(process.store).second) continue;
    process.store->keep_only(*process.pages);
    if (process.store->pages_held() != process.pages->pages())
      return fail(ErrorCode::Internal,
                  fmt::format("pages of process {} are missing", process.image_pid));
  }
  if (!held) BATON_CHECK(rewrite_some(packs, stores));
  BATON_CHECK(packs.seal());
  BATON_CHECK(make_folders(directory));
  SavedMemory saved{0, packs.take_added().bytes};
  std::set<std::string> needed;
  for (const MemoryToSave& process : memory) {
    const PageStore::EncodedMap map = process.store->take_encoded_map();
    saved.pages += process.pages->pages();
    needed.insert(map.packs.begin(), map.packs.end());
    auto path = directory / layout::map_file(process.image_pid);
    BATON_TRY(Fd file, sys::open_file(path, O_WRONLY | O_CREAT | O_EXCL, 0600));
    BATON_CHECK_CTX(sys::write_all(file.get(), map.bytes), path.string());
  }
  if (!held) BATON_CHECK(drop_others(packs, needed));
  BATON_CHECK(link_packs(packs, needed, directory));
  return saved;
}

}  // namespace baton::agent
