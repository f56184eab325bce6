#include "store/page_map.h"

#include <zstd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstddef>
#include <cstring>
#include <map>
#include <memory>
#include <optional>

#include "store/pack.h"
#include "store/page_hash.h"

namespace baton::store {
namespace {

constexpr std::array<char, 8> kMagic = {'B', 'A', 'T', 'N', 'P', 'M', 'A', 'P'};
constexpr std::uint32_t kWhole = 1;    // the version of a map that is one …
constexpr std::uint32_t kChanged = 2;  // … and of one with changes behind it
constexpr std::uint32_t kPacksMax = 1 << 20;
constexpr std::uint64_t kRunsMax = std::uint64_t{1} << 30;
constexpr std::uint64_t kAddressEnd = std::uint64_t{1} << 57;
constexpr std::uint64_t kRunBytesMax = 40;  // four numbers of at most ten bytes
constexpr std::uint64_t kRunBytesMin = 4;
constexpr int kCompressionLevel = 1;  // a job may stand still for it
constexpr int kWindowLogMax = 23;     // encode_page_map() needs 21; the frame may ask for more

// A run takes 24 bytes of memory, and a few bytes of a file can say a great many that are alike. So
// beyond a number that costs nobody much, who has more runs pays for them in bytes of the file.
constexpr std::uint64_t kRunsFree = 1 << 20;
constexpr std::uint64_t kRunsPerByte = 4;

// Of zstd: content that is passed over.
constexpr std::uint32_t kSkippableMagic = 0x184d2a50;
struct SkippableHead {
  std::uint32_t magic = kSkippableMagic;
  std::uint32_t bytes = 0;
};

struct Head {
  std::array<char, 8> magic = kMagic;
  std::uint32_t version = kWhole;
  std::uint32_t packs = 0;
  std::uint64_t runs = 0;
  std::uint64_t body_bytes = 0;  // before compression
  PageHash body_hash;            // of the table of packs and the body before compression
};
struct PackEntry {
  PageHash hash;
  std::uint64_t pages = 0;
};
// Of a map with changes.
struct Foot {
  std::uint64_t before_bytes = 0;  // the changes begin there
  PageHash heads_hash;             // of the heads of both
  std::array<char, 8> magic = {'B', 'A', 'T', 'N', 'D', 'I', 'F', 'F'};
};
static_assert(sizeof(Head) == 48 && sizeof(PackEntry) == 24 && sizeof(Foot) == 32);

std::unexpected<Error> damaged(std::string_view why) {
  return fail(ErrorCode::Damaged, fmt::format("map of pages: {}", why));
}

char* put_number(char* out, std::uint64_t value) {
  for (; value >= 0x80; value >>= 7) *out++ = static_cast<char>(value | 0x80);
  *out++ = static_cast<char>(value);
  return out;
}

// Small numbers of either sign become small numbers.
std::uint64_t fold(std::int64_t value) {
  return (static_cast<std::uint64_t>(value) << 1) ^ static_cast<std::uint64_t>(value >> 63);
}
std::int64_t unfold(std::uint64_t value) {
  return static_cast<std::int64_t>(value >> 1) ^ -static_cast<std::int64_t>(value & 1);
}

class Numbers {
 public:
  explicit Numbers(std::string_view bytes) : rest_(bytes) {}
  std::optional<std::uint64_t> next() {
    std::uint64_t value = 0;
    if (!rest_.empty() && static_cast<unsigned char>(rest_.front()) < 0x80) {  // mostly
      value = static_cast<unsigned char>(rest_.front());
      rest_.remove_prefix(1);
      return value;
    }
    for (int shift = 0; shift < 64 && !rest_.empty(); shift += 7) {
      auto byte = static_cast<unsigned char>(rest_.front());
      rest_.remove_prefix(1);
      value |= std::uint64_t{byte & 0x7fu} << shift;
      if (byte < 0x80) return value;
    }
    return std::nullopt;
  }
  bool at_end() const { return rest_.empty(); }

 private:
  std::string_view rest_;
};

PageHash parse_hash(std::string_view text) {
  PageHash hash;
  std::from_chars(text.data(), text.data() + 16, hash.high, 16);
  std::from_chars(text.data() + 16, text.data() + 32, hash.low, 16);
  return hash;
}

std::uint64_t runs_max(std::uint64_t compressed_bytes) {
  return std::min(kRunsMax, kRunsFree + kRunsPerByte * compressed_bytes);
}

// Padding up to the size that so many runs need.
void pad(std::string& compressed, std::uint64_t runs) {
  if (runs <= runs_max(compressed.size())) return;
  const std::uint64_t bytes = (runs - kRunsFree + kRunsPerByte - 1) / kRunsPerByte;
  SkippableHead head;
  head.bytes = static_cast<std::uint32_t>(
      bytes - std::min(bytes, compressed.size() + std::uint64_t{sizeof head}));
  compressed.append(reinterpret_cast<const char*>(&head), sizeof head);
  compressed.append(head.bytes, '\0');
}

bool is_padding(std::string_view bytes) {
  SkippableHead head;
  if (bytes.size() < sizeof head) return bytes.empty();
  std::memcpy(&head, bytes.data(), sizeof head);
  return head.magic == kSkippableMagic && head.bytes == bytes.size() - sizeof head;
}

// Appends what `bytes` decompress to, `size` bytes in all; false if they do not. Memory is taken as
// content comes, not as figures promise it.
bool decompress(std::string_view bytes, std::uint64_t size, std::string& out) {
  constexpr std::uint64_t step = 1 << 20;
  const std::unique_ptr<ZSTD_DCtx, decltype(&ZSTD_freeDCtx)> context(ZSTD_createDCtx(),
                                                                     &ZSTD_freeDCtx);
  ZSTD_DCtx_setParameter(context.get(), ZSTD_d_windowLogMax, kWindowLogMax);
  const std::uint64_t end = out.size() + size;
  ZSTD_inBuffer in{bytes.data(), bytes.size(), 0};
  for (std::size_t left = 1; left != 0;) {
    const std::size_t in_before = in.pos, out_before = out.size();
    out.resize(out_before + std::min(step, end - out_before));
    ZSTD_outBuffer to{out.data(), out.size(), out_before};
    left = ZSTD_decompressStream(context.get(), &to, &in);
    out.resize(to.pos);
    if (ZSTD_isError(left)) return false;
    if (left != 0 && in.pos == in_before && to.pos == out_before) return false;
  }
  return is_padding(bytes.substr(in.pos)) && out.size() == end;
}

// The most that it may take is asked for at once, and is memory only where it is written to.
std::string encode_body(const PageMap& map) {
  std::string body;
  // Pages lie in their packs in the order of addresses, so that the next one is mostly the one
  // behind the last of that pack: what is written is the difference from that.
  std::vector<std::int64_t> expected(map.packs.size(), 0);
  std::uint64_t end = 0;
  body.resize_and_overwrite(map.runs.size() * kRunBytesMax, [&](char* const begin, std::size_t) {
    char* at = begin;
    for (const MapRun& run : map.runs) {
      at = put_number(at, (run.address - end) / kPageBytes);
      at = put_number(at, run.pages);
      end = run.address + run.pages * kPageBytes;
      if (!is_pack(run.pack)) {
        at = put_number(at, run.pack == kZeroPages ? 0 : map.packs.size() + 1);
        at = put_number(at, 0);
        continue;
      }
      at = put_number(at, std::uint64_t{run.pack} + 1);
      at = put_number(at, fold(run.first - expected[run.pack]));
      expected[run.pack] = static_cast<std::int64_t>(run.first + run.pages);
    }
    return static_cast<std::size_t>(at - begin);
  });
  return body;
}

Status decode_body(std::string_view body, std::uint64_t count, bool are_changes, PageMap& map) {
  const std::uint64_t no_pages = map.packs.size() + 1;
  Numbers numbers(body);
  std::vector<std::int64_t> expected(map.packs.size(), 0);
  std::uint64_t end = 0;
  map.runs.reserve(count);
  for (std::uint64_t i = 0; i < count; ++i) {
    auto gap = numbers.next(), pages = numbers.next(), pack = numbers.next(),
         first = numbers.next();
    if (!first) return damaged("it ends too early");
    constexpr std::uint64_t pages_max = kAddressEnd / kPageBytes;
    if (*gap > pages_max || *pages > pages_max || *pages == 0 || *pack > no_pages ||
        (*pack == no_pages && !are_changes))
      return damaged("a run is absurd");
    MapRun run{end + *gap * kPageBytes, *pages, kZeroPages, 0};
    end = run.address + run.pages * kPageBytes;
    if (end > kAddressEnd) return damaged("a run lies outside of all address spaces");
    if (*pack == no_pages) {
      run.pack = kNoPages;
    } else if (*pack > 0) {
      run.pack = static_cast<std::uint32_t>(*pack - 1);
      const std::uint64_t limit = map.packs[run.pack].pages;
      const std::int64_t at = expected[run.pack] + unfold(*first % (std::uint64_t{1} << 40));
      if (at < 0 || run.pages > limit || static_cast<std::uint64_t>(at) > limit - run.pages)
        return damaged("a run lies outside of its pack");
      run.first = static_cast<std::uint32_t>(at);
      expected[run.pack] = at + static_cast<std::int64_t>(run.pages);
    }
    map.runs.push_back(run);
  }
  return numbers.at_end() ? Status() : damaged("it has more bytes than runs");
}

// The bytes of one map.
Result<PageMap> decode(std::string_view bytes, std::uint32_t version, bool are_changes) {
  Head head;
  if (bytes.size() < sizeof head) return damaged("cut short");
  std::memcpy(&head, bytes.data(), sizeof head);
  bytes.remove_prefix(sizeof head);
  if (head.magic != kMagic) return damaged("it is none");
  if (head.version != version) return damaged("of a format that this version does not know");
  if (head.packs > kPacksMax || head.runs > kRunsMax ||
      head.body_bytes > head.runs * kRunBytesMax || head.body_bytes < head.runs * kRunBytesMin ||
      bytes.size() < head.packs * sizeof(PackEntry))
    return damaged("its figures contradict each other");
  const std::string_view table = bytes.substr(0, head.packs * sizeof(PackEntry));
  bytes.remove_prefix(table.size());
  if (head.runs > runs_max(bytes.size())) return damaged("it has more runs than its size allows");
  std::string whole(table);
  if (!decompress(bytes, head.body_bytes, whole)) return damaged("it does not decompress");
  if (hash_whole(whole) != head.body_hash) return damaged("its checksum is wrong");
  PageMap map;
  for (std::uint32_t i = 0; i < head.packs; ++i) {
    PackEntry entry;
    std::memcpy(&entry, table.data() + i * sizeof entry, sizeof entry);
    if (entry.pages > kPackPagesMax) return damaged("a pack is too large");
    map.packs.push_back({fmt::format("{:016x}{:016x}", entry.hash.high, entry.hash.low),
                         static_cast<std::uint32_t>(entry.pages)});
  }
  const std::string_view body = std::string_view(whole).substr(table.size());
  BATON_CHECK(decode_body(body, head.runs, are_changes, map));
  return map;
}

PageHash hash_heads(std::string_view before, std::string_view changes) {
  return hash_whole(std::string(before.substr(0, sizeof(Head))) +
                    std::string(changes.substr(0, sizeof(Head))));
}

// Adds the packs of `changes` to the map's; says which place each has there.
Result<std::vector<std::uint32_t>> join_packs(PageMap& map, const PageMap& changes) {
  map.packs.reserve(map.packs.size() + changes.packs.size());  // the names stay where they are
  std::map<std::string_view, std::uint32_t> place_of;
  for (std::uint32_t i = 0; i < map.packs.size(); ++i) place_of.emplace(map.packs[i].hash, i);
  std::vector<std::uint32_t> places;
  for (const MapPack& pack : changes.packs) {
    const auto [known, is_new] =
        place_of.emplace(pack.hash, static_cast<std::uint32_t>(map.packs.size()));
    if (is_new)
      map.packs.push_back(pack);
    else if (map.packs[known->second].pages != pack.pages)
      return damaged("a pack is named in two ways");
    places.push_back(known->second);
  }
  return places;
}

Result<PageMap> apply(const PageMap& before, const PageMap& changes) {
  PageMap map{before.packs, {}};
  BATON_TRY(const auto place, join_packs(map, changes));
  map.runs.reserve(before.runs.size() + changes.runs.size());
  auto run = before.runs.begin();
  std::uint64_t changed_to = 0;
  auto keep_until = [&](std::uint64_t end) {
    for (; run != before.runs.end() && run->address < end; ++run) {
      const std::uint64_t run_end = run->address + run->pages * kPageBytes;
      const std::uint64_t from = std::max(run->address, changed_to), to = std::min(run_end, end);
      const auto skipped = static_cast<std::uint32_t>((from - run->address) / kPageBytes);
      if (from < to)
        map.append({from, (to - from) / kPageBytes, run->pack,
                    is_pack(run->pack) ? run->first + skipped : 0});
      if (run_end > end) return;  // the rest of it is behind the change
    }
  };
  for (const MapRun& change : changes.runs) {
    keep_until(change.address);
    changed_to = change.address + change.pages * kPageBytes;
    if (change.pack == kNoPages) continue;
    MapRun there = change;
    if (is_pack(there.pack)) there.pack = place[there.pack];
    map.append(there);
  }
  keep_until(kAddressEnd);
  return map;
}

}  // namespace

std::uint64_t PageMap::pages() const {
  std::uint64_t total = 0;
  for (const MapRun& run : runs) total += run.pages;
  return total;
}

void PageMap::append(const MapRun& run) {
  if (!runs.empty()) {
    MapRun& last = runs.back();
    bool continues = last.pack == run.pack &&
                     last.address + last.pages * kPageBytes == run.address &&
                     (!is_pack(run.pack) || last.first + last.pages == run.first);
    if (continues) {
      last.pages += run.pages;
      return;
    }
  }
  runs.push_back(run);
}

std::string encode_page_map(const PageMap& map) {
  std::string table;
  for (const MapPack& pack : map.packs) {
    PackEntry entry{parse_hash(pack.hash), pack.pages};
    table.append(reinterpret_cast<const char*>(&entry), sizeof entry);
  }
  std::string body = encode_body(map);
  Head head;
  head.packs = static_cast<std::uint32_t>(map.packs.size());
  head.runs = map.runs.size();
  head.body_bytes = body.size();
  head.body_hash = hash_whole(table + body);
  std::string compressed(ZSTD_compressBound(body.size()), '\0');
  compressed.resize(ZSTD_compress(compressed.data(), compressed.size(), body.data(), body.size(),
                                  kCompressionLevel));
  pad(compressed, map.runs.size());
  return std::string(reinterpret_cast<const char*>(&head), sizeof head) + table + compressed;
}

std::string encode_changed_map(std::string before, const PageMap& changes) {
  constexpr std::uint32_t version = kChanged;
  std::memcpy(before.data() + offsetof(Head, version), &version, sizeof version);
  const std::string behind = encode_page_map(changes);
  Foot foot;
  foot.before_bytes = before.size();
  foot.heads_hash = hash_heads(before, behind);
  before += behind;
  return before.append(reinterpret_cast<const char*>(&foot), sizeof foot);
}

Result<PageMap> decode_page_map(std::string_view bytes) {
  Head head;
  if (bytes.size() < sizeof head) return damaged("cut short");
  std::memcpy(&head, bytes.data(), sizeof head);
  if (head.version != kChanged) return decode(bytes, kWhole, false);
  Foot foot;
  const auto magic = foot.magic;
  if (bytes.size() < sizeof head + sizeof foot) return damaged("cut short");
  bytes.copy(reinterpret_cast<char*>(&foot), sizeof foot, bytes.size() - sizeof foot);
  bytes.remove_suffix(sizeof foot);
  if (foot.magic != magic || foot.before_bytes < sizeof head || foot.before_bytes > bytes.size())
    return damaged("its foot is wrong");
  const auto before = bytes.substr(0, foot.before_bytes), behind = bytes.substr(foot.before_bytes);
  if (hash_heads(before, behind) != foot.heads_hash)
    return damaged("its heads don't belong together");
  BATON_TRY(const PageMap map, decode(before, kChanged, false));
  BATON_TRY(const PageMap changes, decode(behind, kWhole, true));
  return apply(map, changes);
}

}  // namespace baton::store
