#include "agent/engine/writers.h"

#include <fcntl.h>

#include <csignal>

#include "sys/proc_maps.h"

namespace baton::agent {
namespace {

constexpr int looks_max = 5;    // at one process
constexpr int rounds_max = 20;  // over the list

// False: a mapping went while we looked.
Result<bool> add_mappings(pid_t pid, SharedMappings& found) {
  auto mappings = sys::read_mappings(pid);
  if (!mappings && ::kill(pid, 0) != 0 && errno == ESRCH) return true;
  if (!mappings) return fail(std::move(mappings).error());
  for (const sys::Mapping& mapping : *mappings) {
    if (!mapping.shared || mapping.inode == 0) continue;
    if (mapping.name.starts_with("/[aio]")) {
      found.asynchronous_io = true;
      continue;
    }
    struct stat info {};
    const std::string link =
        fmt::format("/proc/{}/map_files/{:x}-{:x}", pid, mapping.start, mapping.end);
    if (::stat(link.c_str(), &info) == 0)
      found.files.insert(FileId(info));
    else if (errno == ENOENT)
      return false;
    else
      return fail_errno(link);
  }
  return true;
}

Status add_settled(pid_t pid, SharedMappings& found) {
  for (int i = 0; i < looks_max; ++i) {
    BATON_TRY(const bool settled, add_mappings(pid, found));
    if (settled) return {};
  }
  return fail(ErrorCode::Unavailable,
              fmt::format("mappings of process {} change all the time", pid));
}

}  // namespace

bool is_open_for_reading_only(int file) {
  // Were the lease ever broken, the signal for it is one that nobody has to expect.
  if (::fcntl(file, F_SETSIG, SIGURG) != 0 || ::fcntl(file, F_SETLEASE, F_RDLCK) != 0) return false;
  ::fcntl(file, F_SETLEASE, F_UNLCK);
  return true;
}

Result<SharedMappings> shared_mappings(const Processes& processes) {
  SharedMappings found;
  for (auto [inner, pid] : processes) BATON_CHECK(add_settled(pid, found));
  return found;
}

// A mapping gets into a process by its own call, which takes a descriptor, or by fork. So who was
// looked at after the start has none of before, unless it was forked by one that was not looked at
// yet; then it is new in the list.
Result<SharedMappings> shared_mappings(const std::function<Result<Processes>()>& list) {
  SharedMappings found;
  std::set<pid_t> seen;
  for (int i = 0; i < rounds_max; ++i) {
    BATON_TRY(const Processes processes, list());
    bool is_new = false;
    for (auto [inner, pid] : processes) {
      if (!seen.insert(pid).second) continue;
      is_new = true;
      BATON_CHECK(add_settled(pid, found));
    }
    if (!is_new) return found;
  }
  return fail(ErrorCode::Unavailable, "processes come all the time");
}

}  // namespace baton::agent
