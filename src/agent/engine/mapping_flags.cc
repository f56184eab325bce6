#include "agent/engine/mapping_flags.h"

#include <fcntl.h>

#include <algorithm>
#include <bit>
#include <charconv>
#include <iterator>
#include <set>
#include <sstream>

#include "base/fault.h"
#include "base/log.h"
#include "sys/file.h"
#include "sys/pagemap.h"
#include "sys/process_attributes.h"

namespace baton::agent {
namespace {

namespace fs = std::filesystem;

// Below this, the kernel's answer takes less than a third of a millisecond.
constexpr std::uint64_t large_kib = 32 << 10;
constexpr unsigned mistakes_max = 8;

bool is_large(pid_t pid) {
  auto kib = sys::status_field(pid, "VmRSS");
  return kib && std::strtoull(kib->c_str(), nullptr, 10) >= large_kib;
}

// Without what changes by itself or by our tracking: soft-dirty, and registrations of userfaultfd.
std::set<std::string> programs_own(const std::string& flags) {
  std::set<std::string> words;
  std::istringstream text(flags);
  for (std::string word; text >> word;)
    if (word != "sd" && word != "um" && word != "uw" && word != "ui") words.insert(word);
  return words;
}

// Whether mappings that are in both have the same flags.
bool agree(const std::vector<sys::MappingFlags>& a, const std::vector<sys::MappingFlags>& b) {
  std::map<std::string_view, const std::string*> known;
  for (const auto& mapping : a) known[mapping.mapping] = &mapping.flags;
  return std::ranges::all_of(b, [&](const sys::MappingFlags& mapping) {
    auto at = known.find(mapping.mapping);
    return at == known.end() || *at->second == mapping.flags ||
           programs_own(*at->second) == programs_own(mapping.flags);
  });
}

// Empty: they can't be had.
std::vector<sys::VmaFlags> kernels_flags(pid_t pid) {
  static const auto reader = [] {
    auto made = sys::VmaFlagsReader::create();
    if (!made) spdlog::info("flags of mappings are read slowly: {}", made.error().message());
    return made;
  }();
  if (!reader || !fault("flags.by_iterator")) return {};
  auto flags = reader->read(pid);
  return flags ? std::move(*flags) : std::vector<sys::VmaFlags>();
}

// Of a line of maps.
std::pair<std::uint64_t, std::uint64_t> range_of(std::string_view line) {
  std::pair<std::uint64_t, std::uint64_t> range;
  const char* const end = line.data() + line.size();
  const auto start = std::from_chars(line.data(), end, range.first, 16);
  if (start.ptr != end) std::from_chars(start.ptr + 1, end, range.second, 16);
  return range;
}

// Whether the words may be those of these flags: there is one for each bit. Some bits have none
// (protection keys); then they are not of one state either.
bool of_one_state(const std::vector<sys::MappingFlags>& words,
                  const std::vector<sys::VmaFlags>& kernels) {
  auto vma = kernels.begin();
  for (const sys::MappingFlags& mapping : words) {
    const auto range = range_of(mapping.mapping);
    if (range.first >= sys::address_space_end) continue;  // the kernel's own page
    if (vma == kernels.end() || range != std::pair(vma->start, vma->end)) return false;
    std::istringstream text(mapping.flags);
    const auto count = std::distance(std::istream_iterator<std::string>(text), {});
    if (count != std::popcount(vma->flags)) return false;
    ++vma;
  }
  return vma == kernels.end();
}

}  // namespace

// In this order: a mapping that comes between is in the flags, and the next look at maps differs.
Status MappingFlagsCache::read(pid_t pid, Entry& entry) {
  entry.kernels.clear();
  auto before = kernels_flags(pid);
  BATON_TRY(auto maps, sys::read_mappings_text(pid));
  BATON_TRY(entry.flags, sys::read_mapping_flags(pid));
  entry.maps = std::move(maps);
  if (before == kernels_flags(pid) && of_one_state(entry.flags, before))
    entry.kernels = std::move(before);
  return {};
}

bool MappingFlagsCache::unchanged(pid_t pid, const Entry& entry) {
  if (entry.kernels.empty()) return false;
  const auto now = kernels_flags(pid);
  auto known = entry.kernels.begin();
  for (const sys::VmaFlags& vma : now) {
    while (known != entry.kernels.end() && known->start < vma.start) ++known;
    if (known == entry.kernels.end()) break;
    if (known->start == vma.start && known->end == vma.end && known->flags != vma.flags)
      return false;
  }
  return !now.empty();
}

void MappingFlagsCache::before_freeze(const Processes& processes, const fs::path& images) {
  std::set<pid_t> present;
  for (auto [inner, pid] : processes) present.insert(pid);
  std::erase_if(entries_, [&](const auto& entry) { return !present.contains(entry.first); });
  for (auto [inner, pid] : processes) {
    Entry& entry = entries_[pid];
    entry.used = false;
    if (entry.left_to_kernel > 0) {
      --entry.left_to_kernel;
      continue;
    }
    if (!is_large(pid)) continue;
    auto left = leave(inner, pid, images);
    entry.used = left.has_value();
    if (!left) spdlog::debug("flags of mappings: {}", left.error().message());
  }
}

Status MappingFlagsCache::leave(pid_t inner, pid_t pid, const fs::path& images) {
  Entry& entry = entries_[pid];
  BATON_TRY(auto maps, sys::read_mappings_text(pid));
  if (maps != entry.maps || (!entry.kernels.empty() && !unchanged(pid, entry)))
    BATON_CHECK(read(pid, entry));
  auto locked = sys::status_field(pid, "VmLck");
  if (!locked) return fail(ErrorCode::NotFound, fmt::format("process {} has ended", pid));
  std::string text = fmt::format("VmLck:\t{}\n", *locked);
  for (const auto& [mapping, flags] : entry.flags) text += fmt::format("{}\t{}\n", mapping, flags);
  BATON_TRY(Fd file, sys::open_file(images / fmt::format("flags-{}", inner),
                                    O_WRONLY | O_CREAT | O_TRUNC, 0600));
  return sys::write_all(file.get(), text);
}

void MappingFlagsCache::leave_none() {
  for (auto& [pid, entry] : entries_) entry.used = false;
}

bool MappingFlagsCache::hold_true() {
  bool true_for_all = true;
  for (auto& [pid, entry] : entries_) {
    if (!std::exchange(entry.used, false)) continue;
    if (unchanged(pid, entry)) {
      entry.mistakes = 0;
      continue;
    }
    auto before = std::move(entry.flags);
    if (!read(pid, entry)) {
      entry.maps.clear();  // it ended; nothing of it can be compared any more
      continue;
    }
    if (agree(before, entry.flags)) {
      entry.mistakes = 0;
      continue;
    }
    entry.mistakes = std::min(entry.mistakes + 1, mistakes_max);
    entry.left_to_kernel = (1u << entry.mistakes) - 1;
    true_for_all = false;
  }
  return true_for_all;
}

}  // namespace baton::agent
