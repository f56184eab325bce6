#include "agent/engine/soft_dirty_memory.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <set>

#include "agent/engine/checkpoint_layout.h"
#include "base/fault.h"
#include "base/log.h"
#include "sys/file.h"

namespace baton::agent {
namespace {

namespace fs = std::filesystem;
using criu::PagemapRun;
using sys::page_bytes;

constexpr const char* parent_folder = "earlier";
constexpr const char* inventory_file = "inventory.img";
constexpr std::uint64_t inventory_bytes_max = 1u << 20;
constexpr std::size_t buffer_bytes = 256 << 10;

std::string who_may_take_marks_off(const SoftDirtyMemory::Processes& processes) {
  for (auto [inner, pid] : processes) {
    std::error_code error;
    fs::directory_iterator at(fmt::format("/proc/{}/fd", pid), error);
    for (; !error && at != fs::directory_iterator(); at.increment(error)) {
      std::error_code ignored;
      if (fs::read_symlink(at->path(), ignored).filename() == "clear_refs")
        return fmt::format("process {} has clear_refs open", inner);
    }
  }
  return "";
}

// "pagemap-7.img" -> 7.
std::optional<pid_t> process_of(const std::string& name) {
  pid_t pid = 0;
  constexpr std::string_view prefix = "pagemap-";
  if (!name.starts_with(prefix)) return std::nullopt;
  const auto [end, error] =
      std::from_chars(name.data() + prefix.size(), name.data() + name.size(), pid);
  if (error != std::errc() || pid <= 0 || std::string_view(end) != ".img") return std::nullopt;
  return pid;
}

// CRIU finds nothing out about shared memory by marks (unless CRIU_TRACK_SHMEM is in its
// environment; its own source says why not to): all of it is in every dump.
Status expect_flat(const fs::path& pagemap) {
  BATON_TRY(const criu::PagemapImage image, criu::read_pagemap(pagemap));
  for (const PagemapRun& run : image.runs)
    if (run.flags & criu::pagemap_in_parent)
      return fail(ErrorCode::Damaged, fmt::format("{}: shared memory that was not dumped",
                                                  pagemap.filename().string()));
  return {};
}

}  // namespace

Status SoftDirtyMemory::before_dump(const Processes& processes, const fs::path& images,
                                    const std::string& untracked, criu::SessionOptions& options) {
  const std::string parent = std::exchange(inventory_, {});
  active_ = has_parent_ = false;
  std::string why_not = std::exchange(declined_, {});
  if (why_not.empty()) why_not = who_may_take_marks_off(processes);
  if (!why_not.empty()) {
    description_ = fmt::format("full: {}; not by soft-dirty: {}", untracked, why_not);
    return {};
  }
  active_ = options.track_memory = true;
  description_ = "soft-dirty: " + untracked;
  if (parent.empty()) {
    for (auto& [pid, process] : processes_) process.store.forget_all();
    return {};
  }
  has_parent_ = true;
  BATON_CHECK_CTX(write_parent(images / parent_folder, parent), "tell CRIU of the last dump");
  options.parent_images = parent_folder;
  return {};
}

// Of the parent CRIU looks at nothing but which pages it has and when it was dumped.
Status SoftDirtyMemory::write_parent(const fs::path& folder, const std::string& inventory) const {
  BATON_CHECK(sys::make_directories(folder, 0700));
  BATON_TRY(Fd file, sys::open_file(folder / inventory_file, O_WRONLY | O_CREAT | O_EXCL, 0600));
  BATON_CHECK(sys::write_all(file.get(), inventory));
  for (const auto& [pid, process] : processes_) {
    criu::PagemapImage image{1, {}};
    for (const PageRun& run : process.pages.runs())
      image.runs.push_back({run.start, run.pages(), criu::pagemap_present});
    BATON_CHECK(
        criu::write_pagemap(criu::pagemap_path(folder, static_cast<std::uint32_t>(pid)), image));
  }
  return {};
}

Status SoftDirtyMemory::save(const fs::path& checkpoint, bool held) {
  saved_ = {};
  dumped_pages_ = 0;
  if (!active_) return {};
  auto work = [&]() -> Status {
    BATON_CHECK(fault("softdirty.save"));
    if (!packs_) {
      BATON_TRY(packs_, PagePacks::create(packs_directory_));
    }
    const fs::path images = checkpoint / layout::images_folder;
    BATON_CHECK(take_images(images));
    std::vector<MemoryToSave> wanted;
    for (auto& [pid, process] : processes_) wanted.push_back({pid, &process.pages, &process.store});
    BATON_TRY(saved_, save_memory(*packs_, wanted, checkpoint, held));
    BATON_TRY(inventory_, sys::read_file(images / inventory_file, inventory_bytes_max));
    return {};
  };
  auto outcome = work();
  if (outcome) {
    active_ = false;
    return {};
  }
  drop_copies();
  // Damaged would say that the job is.
  const bool full = outcome.error().code() == ErrorCode::NoSpace;
  return fail(full ? ErrorCode::NoSpace : ErrorCode::Internal,
              fmt::format("memory that CRIU dumped: {}", outcome.error().message()));
}

Status SoftDirtyMemory::take_images(const fs::path& images) {
  std::set<pid_t> dumped;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(images, error)) {
    const std::string name = entry.path().filename();
    if (name.starts_with("pagemap-shmem-")) BATON_CHECK(expect_flat(entry.path()));
    if (const auto pid = process_of(name)) dumped.insert(*pid);
  }
  if (error) return fail_errno(images.string(), error.value());
  std::erase_if(processes_, [&](const auto& entry) { return !dumped.contains(entry.first); });
  for (const pid_t pid : dumped)
    BATON_CHECK_CTX(take_process(images, pid), fmt::format("process {}", pid));
  return {};
}

Status SoftDirtyMemory::take_process(const fs::path& images, pid_t pid) {
  const fs::path path = criu::pagemap_path(images, static_cast<std::uint32_t>(pid));
  BATON_TRY(const criu::PagemapImage image, criu::read_pagemap(path));
  Process& process = processes_.try_emplace(pid, Process{PageStore(*packs_), {}}).first->second;
  const fs::path pages = criu::pages_path(images, image.pages_id);
  BATON_CHECK(read_pages(image, pages, process.store));
  process.pages.clear();
  for (const PagemapRun& run : image.runs) {
    if (!(run.flags & (criu::pagemap_present | criu::pagemap_in_parent)))
      return fail(ErrorCode::Damaged, fmt::format("pages at {:#x} were not dumped", run.address));
    process.pages.append(run.address, run.end());
  }
  // What was dumped is in the store now, and besides it what the parent had.
  const PageSet missing = process.store.missing(process.pages);
  if (!missing.empty())
    return fail(ErrorCode::Damaged, fmt::format("{} pages, the first at {:#x}, are not in the last "
                                                "dump, where they should be",
                                                missing.pages(), missing.runs().front().start));
  BATON_CHECK(criu::write_pagemap(path, {image.pages_id, {}}));
  if (::unlink(pages.c_str()) != 0 && errno != ENOENT)
    return fail_errno(fmt::format("remove {}", pages.string()));
  return {};
}

Status SoftDirtyMemory::read_pages(const criu::PagemapImage& image, const fs::path& path,
                                   PageStore& store) {
  std::uint64_t pages = 0;
  for (const PagemapRun& run : image.runs)
    if (run.flags & criu::pagemap_present) pages += run.pages;
  if (pages == 0) return {};  // CRIU may make no file then
  BATON_TRY(const Fd file, sys::open_file(path, O_RDONLY));
  struct stat info {};
  if (::fstat(file.get(), &info) != 0) return fail_errno(path.string());
  if (static_cast<std::uint64_t>(info.st_size) != pages * page_bytes)
    return fail(ErrorCode::Damaged, fmt::format("{} has {} bytes instead of {}", path.string(),
                                                info.st_size, pages * page_bytes));
  std::vector<char> buffer(buffer_bytes);
  std::uint64_t offset = 0;
  for (const PagemapRun& run : image.runs) {
    if (!(run.flags & criu::pagemap_present)) continue;
    for (std::uint64_t at = run.address; at < run.end();) {
      const std::size_t size = std::min<std::uint64_t>(run.end() - at, buffer.size());
      BATON_CHECK(sys::pread_all(file.get(), buffer.data(), size, offset));
      BATON_CHECK(store.put(at, {buffer.data(), size}));
      at += size;
      offset += size;
    }
  }
  dumped_pages_ += pages;
  return {};
}

void SoftDirtyMemory::drop_copies() {
  inventory_.clear();
  processes_.clear();
  packs_.reset();
}

void SoftDirtyMemory::forget() {
  active_ = has_parent_ = false;
  declined_.clear();
  drop_copies();
}

bool SoftDirtyMemory::another_try(const Error& error) {
  // A try that failed before it came to before_dump() had other reasons as well.
  if (!std::exchange(active_, false)) return false;
  // The job can't be trusted any more, more memory would take longer still, and so on.
  const auto code = error.code();
  if (code == ErrorCode::Damaged || code == ErrorCode::TimedOut || code == ErrorCode::Refused ||
      code == ErrorCode::NoSpace)
    return false;
  if (!has_parent_) declined_ = error.message();
  spdlog::warn("checkpoint by soft-dirty failed, now {}: {}",
               has_parent_ ? "of all memory" : "without", error.message());
  return true;
}

}  // namespace baton::agent
