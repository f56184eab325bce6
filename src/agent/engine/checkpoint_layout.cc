#include "agent/engine/checkpoint_layout.h"

#include <charconv>

#include "sys/file.h"

namespace baton::agent {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t map_bytes_max = 1u << 30;

}  // namespace

Result<std::map<pid_t, store::PageMap>> read_maps(const fs::path& checkpoint) {
  std::map<pid_t, store::PageMap> maps;
  const fs::path folder = checkpoint / layout::memory_folder;
  std::error_code error;
  if (!fs::exists(folder, error)) return maps;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename();
    pid_t pid = 0;
    std::from_chars(name.data(), name.data() + name.size(), pid);
    if (pid <= 0 || checkpoint / layout::map_file(pid) != entry.path())
      return fail(ErrorCode::Damaged, fmt::format("{}: not a map of pages", entry.path().string()));
    BATON_TRY(std::string bytes, sys::read_file(entry.path(), map_bytes_max));
    auto map = store::decode_page_map(bytes);
    if (!map) return fail(std::move(map).error().context(entry.path().string()));
    maps.emplace(pid, std::move(*map));
  }
  if (error) return fail_errno(folder.string(), error.value());
  return maps;
}

}  // namespace baton::agent
