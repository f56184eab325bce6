#include "criu/images.h"

#include <fcntl.h>
#include <sys/mman.h>

#include <algorithm>
#include <map>
#include <unordered_set>

#include "criu/criu_images.pb.h"
#include "criu/image_file.h"
#include "sys/file.h"

namespace baton::criu {
namespace {

namespace fs = std::filesystem;

template <typename Entry>
Status write_entries(const fs::path& path, std::uint32_t magic, const std::vector<Entry>& entries) {
  std::string content;
  auto add_word = [&](std::uint32_t value) {
    content.append(reinterpret_cast<const char*>(&value), sizeof value);
  };
  add_word(kCommonMagic);
  add_word(magic);
  for (const auto& entry : entries) {
    std::string bytes = entry.SerializeAsString();
    add_word(static_cast<std::uint32_t>(bytes.size()));
    content += bytes;
  }
  BATON_TRY(Fd file, sys::open_file(path, O_WRONLY | O_CREAT | O_TRUNC, 0600));
  return sys::write_all(file.get(), content);
}

Status add_files(const fs::path& directory, ImageSummary& summary) {
  BATON_TRY(auto files, read_entries<criu_images::FileEntry>(directory / "files.img", kFilesMagic));
  std::unordered_set<std::uint32_t> deleted;
  if (fs::exists(directory / "remap-fpath.img")) {
    BATON_TRY(auto remaps,
              read_entries<criu_images::RemapEntry>(directory / "remap-fpath.img", kRemapMagic));
    for (const auto& remap : remaps) deleted.insert(remap.orig_id());
    summary.features.insert("deleted-file");
  }
  for (const auto& file : files) {
    if (const char* kind = file_kind(file.type())) summary.features.insert(kind);
    if (file.has_isk())
      summary.features.insert(fmt::format("inet-socket-{}-{}-{}", file.isk().family(),
                                          file.isk().type(), file.isk().state()));
    if (!file.has_reg() || file.reg().ext() || deleted.contains(file.reg().id())) continue;
    const auto& reg = file.reg();
    std::string path = reg.name().starts_with('/') ? reg.name() : "/" + reg.name();
    summary.files.push_back({std::move(path), reg.size(), reg.has_size(), reg.mode()});
  }
  return {};
}

Status add_mappings(const fs::path& directory, pid_t pid, ImageSummary& summary) {
  fs::path path = directory / fmt::format("mm-{}.img", pid);
  if (!fs::exists(path)) return {};  // a zombie
  BATON_TRY(auto spaces, read_entries<criu_images::MmEntry>(path, kMmMagic));
  // VMA_* of CRIU's criu/include/image.h.
  static const std::map<int, const char*> kinds = {
      {6, "private-file-mapping"}, {7, "shared-file-mapping"}, {8, "shared-memory"},
      {10, "sysv-shared-memory"},  {11, "socket-mapping"},     {13, "aio-ring"},
      {14, "memfd-mapping"}};
  for (const auto& space : spaces)
    for (const auto& vma : space.vmas()) {
      for (const auto& [bit, name] : kinds)
        if (vma.status() & (1u << bit)) summary.features.insert(name);
      if (vma.flags() & MAP_HUGETLB) summary.features.insert("huge-pages");
    }
  return {};
}

// Whether something had to be changed.
bool mend_timer(criu_images::Timerfd& timer) {
  constexpr std::uint32_t absolute = 1;  // TFD_TIMER_ABSTIME; the image has the time that is left
  bool periodic = timer.isec() != 0 || timer.insec() != 0;
  bool expired = timer.vsec() == 0 && timer.vnsec() == 0 && timer.ticks() != 0;
  bool changed = false;
  if (timer.settime_flags() & absolute) {
    timer.set_settime_flags(timer.settime_flags() & ~absolute);
    changed = true;
  }
  if (periodic && expired) {
    timer.set_vnsec(1);
    changed = true;
  }
  return changed;
}

// Returns what is taken.
std::uint64_t limit_set(google::protobuf::RepeatedField<std::uint32_t>& words,
                        std::uint64_t given) {
  std::uint64_t taken = 0;
  for (int half = 0; half < std::min(words.size(), 2); ++half) {
    const auto mine = static_cast<std::uint32_t>(given >> (32 * half));
    taken |= std::uint64_t{words[half] & ~mine} << (32 * half);
    words[half] &= mine;
  }
  return taken;
}

}  // namespace

Result<std::uint64_t> limit_capabilities(const fs::path& directory, std::uint64_t given) {
  std::uint64_t all_taken = 0;
  std::error_code error;
  for (const auto& file : fs::directory_iterator(directory, error)) {
    const fs::path& path = file.path();
    if (!path.filename().native().starts_with("core-")) continue;
    BATON_TRY(auto cores, read_entries<criu_images::CoreEntry>(path, kCoreMagic));
    std::uint64_t taken = 0;
    for (auto& core : cores) {
      if (!core.thread_core().has_creds()) continue;
      auto& creds = *core.mutable_thread_core()->mutable_creds();
      for (auto* set : {creds.mutable_cap_inh(), creds.mutable_cap_prm(), creds.mutable_cap_eff(),
                        creds.mutable_cap_amb()})
        taken |= limit_set(*set, given);
    }
    if (taken == 0) continue;
    all_taken |= taken;
    const fs::path aside = directory / "limited.new";
    BATON_CHECK(write_entries(aside, kCoreMagic, cores));
    fs::rename(aside, path, error);
    if (error) break;
  }
  if (error)
    return fail(ErrorCode::Internal, fmt::format("{}: {}", directory.string(), error.message()));
  return all_taken;
}

Status mend_timers(const fs::path& directory) {
  fs::path path = directory / "files.img";
  BATON_TRY(auto files, read_entries<criu_images::FileEntry>(path, kFilesMagic));
  bool changed = false;
  for (auto& file : files)
    if (file.has_tfd()) changed |= mend_timer(*file.mutable_tfd());
  return changed ? write_entries(path, kFilesMagic, files) : Status{};
}

Result<ImageSummary> summarize_images(const fs::path& directory) {
  ImageSummary summary;
  BATON_TRY(auto tree,
            read_entries<criu_images::PstreeEntry>(directory / "pstree.img", kPstreeMagic));
  std::unordered_set<std::uint32_t> pids;
  for (const auto& entry : tree) {
    // Or a small image would have large ones read over and over.
    if (!pids.insert(entry.pid()).second)
      return fail(ErrorCode::Damaged,
                  fmt::format("CRIU's images have process {} twice", entry.pid()));
    ImageProcess process{static_cast<pid_t>(entry.pid()), static_cast<pid_t>(entry.ppid()), {}};
    for (auto thread : entry.threads()) process.threads.push_back(static_cast<pid_t>(thread));
    if (process.threads.size() > 1) summary.features.insert("threads");
    BATON_CHECK(add_mappings(directory, process.pid, summary));
    summary.processes.push_back(std::move(process));
  }
  if (tree.empty()) return fail(ErrorCode::Damaged, "CRIU's image of the process tree is empty");
  BATON_CHECK(add_files(directory, summary));
  // Objects of the ipc namespace have images of their own, present only when there are any.
  for (const auto& entry : fs::directory_iterator(directory)) {
    std::string name = entry.path().filename();
    if (name.starts_with("ipcns-shm-")) summary.features.insert("sysv-shared-memory-segment");
    if (name.starts_with("filelocks")) summary.features.insert("file-lock");
  }
  return summary;
}

}  // namespace baton::criu
