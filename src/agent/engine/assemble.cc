#include "agent/engine/assemble.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>

#include "criu/image_codec.h"
#include "sys/file.h"

namespace baton::agent {
namespace {

namespace fs = std::filesystem;
using criu::PagemapRun;

// Appends CRIU's own pages to the new file, from where they lie in its old one.
class DumpedPages {
 public:
  static Result<DumpedPages> open(const fs::path& path) {
    if (!fs::exists(path)) return DumpedPages(Fd());  // CRIU dumped no page
    BATON_TRY(Fd file, sys::open_file(path, O_RDONLY));
    return DumpedPages(std::move(file));
  }

  Status copy(int out, std::uint64_t pages) {
    for (std::uint64_t left = pages * sys::page_bytes; left > 0;) {
      std::size_t size = std::min<std::uint64_t>(left, buffer_.size());
      BATON_CHECK(sys::pread_all(file_.get(), buffer_.data(), size, offset_));
      BATON_CHECK(sys::write_all(out, {buffer_.data(), size}));
      offset_ += size;
      left -= size;
    }
    return {};
  }

 private:
  explicit DumpedPages(Fd file) : file_(std::move(file)) {}
  Fd file_;
  std::uint64_t offset_ = 0;
  std::vector<char> buffer_ = std::vector<char>(256 << 10);
};

PageSet dumped_pages(const std::vector<PagemapRun>& runs) {
  PageSet pages;
  for (const PagemapRun& run : runs)
    if (run.flags & criu::pagemap_present) pages.append(run.address, run.end());
  return pages;
}

struct Merger {
  const PageStore& store;
  DumpedPages& dumped;
  int out;
  std::vector<PagemapRun> runs;

  Status add_dumped(const PagemapRun& run) {
    if (run.flags & criu::pagemap_present) BATON_CHECK(dumped.copy(out, run.pages));
    runs.push_back(run);
    return {};
  }
  // Neighbours of ours are written in one go.
  Status add_ours(PageSet& pending) {
    if (pending.empty()) return {};
    BATON_CHECK(store.write_to(out, pending));
    for (const PageRun& run : pending.runs())
      runs.push_back({run.start, run.pages(), criu::pagemap_present});
    pending.clear();
    return {};
  }
};

}  // namespace

Result<std::uint64_t> assemble_memory(const fs::path& images, pid_t image_pid,
                                      const PageSet& captured, const PageStore& store) {
  fs::path map_path = criu::pagemap_path(images, static_cast<std::uint32_t>(image_pid));
  BATON_TRY(criu::PagemapImage image, criu::read_pagemap(map_path));
  PageSet pages = subtract(captured, dumped_pages(image.runs));
  fs::path pages_path = criu::pages_path(images, image.pages_id);
  fs::path new_path = pages_path.string() + ".new";
  BATON_TRY(DumpedPages dumped, DumpedPages::open(pages_path));
  BATON_TRY(Fd out, sys::open_file(new_path, O_WRONLY | O_CREAT | O_TRUNC, 0600));
  Merger merger{store, dumped, out.get(), {}};
  PageSet pending;
  auto theirs = image.runs.begin();
  for (const PageRun& run : pages.runs()) {
    if (theirs != image.runs.end() && theirs->address < run.start) {
      BATON_CHECK(merger.add_ours(pending));
      for (; theirs != image.runs.end() && theirs->address < run.start; ++theirs)
        BATON_CHECK(merger.add_dumped(*theirs));
    }
    pending.append(run.start, run.end);
  }
  BATON_CHECK(merger.add_ours(pending));
  for (; theirs != image.runs.end(); ++theirs) BATON_CHECK(merger.add_dumped(*theirs));
  image.runs = std::move(merger.runs);
  BATON_CHECK(criu::write_pagemap(map_path, image));
  if (::rename(new_path.c_str(), pages_path.c_str()) != 0)
    return fail_errno(fmt::format("rename {}", new_path.string()));
  return captured.pages() - pages.pages();
}

}  // namespace baton::agent
