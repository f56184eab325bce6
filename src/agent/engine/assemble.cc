#include "agent/engine/assemble.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <map>

#include "agent/engine/checkpoint_layout.h"
#include "agent/engine/page_set.h"
#include "criu/image_codec.h"
#include "criu/process_images.h"
#include "store/pack.h"
#include "store/page_map.h"
#include "sys/file.h"

namespace baton::agent {
namespace {

namespace fs = std::filesystem;
using criu::PagemapRun;
using sys::page_bytes;

// Writes the pages of one process in the order of addresses.
class PagesFile {
 public:
  PagesFile(Fd out, Fd dumped, const store::PageMap& map, OpenPacks& packs,
            const std::stop_token& given_up)
      : out_(std::move(out)),
        dumped_(std::move(dumped)),
        map_(map),
        packs_(packs),
        given_up_(given_up) {}

  // The next pages of CRIU's own file.
  Status add_dumped(std::uint64_t pages) {
    for (std::uint64_t left = pages * page_bytes; left > 0;) {
      std::size_t size = std::min<std::uint64_t>(left, buffer_.size());
      BATON_CHECK(sys::pread_all(dumped_.get(), buffer_.data(), size, dumped_offset_));
      BATON_CHECK(sys::write_all(out_.get(), {buffer_.data(), size}));
      dumped_offset_ += size;
      left -= size;
    }
    return {};
  }
  // `skip` pages into a run of the map, `pages` of them.
  Status add_copied(const store::MapRun& run, std::uint64_t skip, std::uint64_t pages) {
    if (run.pack == store::kZeroPages) return add_zeroes(pages);
    BATON_TRY(store::PackReader * pack, packs_.get(map_.packs[run.pack].hash));
    for (auto at = static_cast<std::uint32_t>(run.first + skip); pages > 0;) {
      auto count =
          static_cast<std::uint32_t>(std::min<std::uint64_t>(pages, buffer_.size() / page_bytes));
      if (given_up_.stop_requested()) return fail(ErrorCode::Cancelled, "it was given up");
      BATON_CHECK(pack->read(at, count, buffer_.data()));
      BATON_CHECK(sys::write_all(out_.get(), {buffer_.data(), count * page_bytes}));
      at += count;
      pages -= count;
    }
    return {};
  }

 private:
  // A hole reads as zeroes.
  Status add_zeroes(std::uint64_t pages) {
    off_t end = ::lseek(out_.get(), static_cast<off_t>(pages * page_bytes), SEEK_CUR);
    if (end < 0 || ::ftruncate(out_.get(), end) != 0) return fail_errno("write pages");
    return {};
  }

  Fd out_;
  Fd dumped_;
  const store::PageMap& map_;
  OpenPacks& packs_;
  const std::stop_token& given_up_;
  std::uint64_t dumped_offset_ = 0;
  std::vector<char> buffer_ = std::vector<char>(256 << 10);
};

PageSet dumped_pages(const std::vector<PagemapRun>& runs) {
  PageSet pages;
  for (const PagemapRun& run : runs)
    if (run.flags & criu::pagemap_present) pages.append(run.address, run.end());
  return pages;
}

PageSet mapped_pages(const store::PageMap& map) {
  PageSet pages;
  for (const store::MapRun& run : map.runs)
    pages.append(run.address, run.address + run.pages * page_bytes);
  return pages;
}

// Which runs the pages come in: CRIU's where it dumped a page, else those of the map. Each is told
// to `dumped` or `copied` in the order of addresses.
template <typename Dumped, typename Copied>
Status merge(const std::vector<PagemapRun>& theirs, const store::PageMap& map, Dumped dumped,
             Copied copied) {
  const PageSet ours = subtract(mapped_pages(map), dumped_pages(theirs));
  auto their = theirs.begin();
  auto run = map.runs.begin();
  for (const PageRun& part : ours.runs()) {
    for (; their != theirs.end() && their->address < part.start; ++their)
      BATON_CHECK(dumped(*their));
    for (std::uint64_t at = part.start; at < part.end;) {
      while (run->address + run->pages * page_bytes <= at) ++run;
      const std::uint64_t skip = (at - run->address) / page_bytes;
      const std::uint64_t pages = std::min((part.end - at) / page_bytes, run->pages - skip);
      BATON_CHECK(copied(*run, skip, pages));
      at += pages * page_bytes;
    }
  }
  for (; their != theirs.end(); ++their) BATON_CHECK(dumped(*their));
  return {};
}

// Cuts [start, end) where lazy mappings begin and end, and tells each part with whether it is in
// one. To be called with ascending addresses.
class LazyCut {
 public:
  explicit LazyCut(std::vector<criu::AddressRange> ranges) : ranges_(std::move(ranges)) {}

  template <typename Part>
  Status cut(std::uint64_t start, std::uint64_t end, Part part) {
    while (start < end) {
      while (at_ < ranges_.size() && ranges_[at_].end <= start) ++at_;
      const bool within = at_ < ranges_.size() && ranges_[at_].start <= start;
      std::uint64_t stop = end;
      if (at_ < ranges_.size())
        stop = std::min(end, within ? ranges_[at_].end : ranges_[at_].start);
      BATON_CHECK(part(start, stop, within));
      start = stop;
    }
    return {};
  }

 private:
  const std::vector<criu::AddressRange> ranges_;
  std::size_t at_ = 0;
};

// CRIU marks what could be lazy in every dump, and a lazy restore would skip what is there.
PagemapRun without_lazy(PagemapRun run) {
  if (run.flags & criu::pagemap_present) run.flags &= ~criu::pagemap_lazy;
  return run;
}

// The same for a process of which nothing was tracked.
Status unmark_process(const fs::path& from, const fs::path& to, Assembled& made) {
  BATON_TRY(criu::PagemapImage image, criu::read_pagemap(from));
  std::ranges::transform(image.runs, image.runs.begin(), without_lazy);
  BATON_CHECK(criu::write_pagemap(to / from.filename(), image));
  made.files.insert(from.filename());
  return {};
}

// The images of one process; `made` gets their names, and what is left out.
Status assemble_process(const fs::path& from, std::uint32_t pid, store::PageMap map,
                        OpenPacks& packs, const fs::path& to, bool lazily,
                        const std::stop_token& given_up, Assembled& made) {
  BATON_TRY(criu::PagemapImage image, criu::read_pagemap(criu::pagemap_path(from, pid)));
  fs::path their_pages = criu::pages_path(from, image.pages_id);
  Fd dumped;
  if (fs::exists(their_pages)) {  // CRIU makes none when it dumps no page
    BATON_TRY(dumped, sys::open_file(their_pages, O_RDONLY));
  }
  fs::path pages_path = criu::pages_path(to, image.pages_id);
  BATON_TRY(Fd out, sys::open_file(pages_path, O_WRONLY | O_CREAT | O_EXCL, 0600));
  PagesFile file(std::move(out), std::move(dumped), map, packs, given_up);
  criu::PagemapImage complete{image.pages_id, {}};
  auto name = [&](std::uint64_t address, std::uint64_t pages, std::uint32_t flags) {
    auto& runs = complete.runs;
    if (!runs.empty() && runs.back().flags == flags && runs.back().end() == address)
      runs.back().pages += pages;
    else
      runs.push_back({address, pages, flags});
  };
  std::vector<criu::AddressRange> lazy_mappings;
  if (lazily) {
    BATON_TRY(lazy_mappings, criu::read_lazy_mappings(from, static_cast<pid_t>(pid)));
  }
  LazyCut lazy(std::move(lazy_mappings));
  LazyPages left_out;
  BATON_CHECK(merge(
      image.runs, map,
      [&](const PagemapRun& run) -> Status {
        if (run.flags & criu::pagemap_present) BATON_CHECK(file.add_dumped(run.pages));
        complete.runs.push_back(lazily ? without_lazy(run) : run);
        return {};
      },
      [&](const store::MapRun& run, std::uint64_t skip, std::uint64_t pages) -> Status {
        const std::uint64_t begin = run.address + skip * page_bytes;
        return lazy.cut(begin, begin + pages * page_bytes,
                        [&](std::uint64_t start, std::uint64_t end, bool within) -> Status {
                          const std::uint64_t count = (end - start) / page_bytes;
                          if (!within) {
                            name(start, count, criu::pagemap_present);
                            return file.add_copied(run, (start - run.address) / page_bytes, count);
                          }
                          if (run.pack == store::kZeroPages)
                            return {};  // what nobody brings reads so
                          name(start, count, criu::pagemap_lazy);
                          left_out.pages.append(start, end);
                          return {};
                        });
      }));
  if (!left_out.pages.empty()) {
    left_out.map = std::move(map);
    made.lazy[static_cast<pid_t>(pid)] = std::move(left_out);
  }
  fs::path map_path = criu::pagemap_path(to, pid);
  BATON_CHECK(criu::write_pagemap(map_path, complete));
  made.files.insert(map_path.filename());
  made.files.insert(pages_path.filename());
  return {};
}

}  // namespace

Result<Assembled> assemble_memory(const fs::path& checkpoint, PageMaps maps, OpenPacks& packs,
                                  const fs::path& images, bool lazy,
                                  const std::stop_token& given_up) {
  Assembled made;
  for (auto& [pid, map] : maps)
    BATON_CHECK(assemble_process(checkpoint / layout::images_folder,
                                 static_cast<std::uint32_t>(pid), std::move(map), packs, images,
                                 lazy, given_up, made));
  if (!lazy) return made;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(checkpoint / layout::images_folder, error)) {
    const std::string name = entry.path().filename();
    const bool is_process = name.starts_with("pagemap-") && !name.starts_with("pagemap-shmem-");
    if (is_process && !made.files.contains(name))
      BATON_CHECK(unmark_process(entry.path(), images, made));
  }
  if (error) return fail(ErrorCode::Damaged, error.message());
  return made;
}

TrackedBytes tracked_bytes(const PageMaps& maps) {
  TrackedBytes bytes;
  std::map<std::string_view, std::size_t> processes;  // that name the pack
  for (const auto& [pid, map] : maps)
    for (const auto& pack : map.packs) ++processes[pack.hash];
  std::map<std::string_view, std::vector<bool>> counted;  // pages, by pack
  for (const auto& [pid, map] : maps) {
    std::vector<std::vector<bool>*> of_pack;  // null: there is nobody to share it with
    for (const auto& pack : map.packs) {
      of_pack.push_back(processes[pack.hash] > 1 ? &counted[pack.hash] : nullptr);
      if (of_pack.back() && of_pack.back()->size() < pack.pages) of_pack.back()->resize(pack.pages);
    }
    for (const store::MapRun& run : map.runs) {
      if (run.pack == store::kZeroPages) continue;
      bytes.all += run.pages * page_bytes;
      if (!of_pack[run.pack]) {
        bytes.distinct += run.pages * page_bytes;
        continue;
      }
      auto& pages = *of_pack[run.pack];
      const std::uint64_t end = std::min<std::uint64_t>(run.first + run.pages, pages.size());
      for (std::uint64_t page = run.first; page < end; ++page) {
        if (!pages[page]) bytes.distinct += page_bytes;
        pages[page] = true;
      }
    }
  }
  return bytes;
}

}  // namespace baton::agent
