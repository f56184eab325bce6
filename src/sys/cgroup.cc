#include "sys/cgroup.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <functional>
#include <limits>
#include <sstream>
#include <thread>

#include "sys/file.h"
#include "sys/mounts.h"

namespace baton::sys {
namespace {

constexpr std::array<std::string_view, 5> kControllers{"cpu", "cpuacct", "memory", "freezer",
                                                       "pids"};
constexpr std::uint64_t kPeriodUs = 100'000;
constexpr std::uint64_t kLeastQuotaUs = 1'000;  // the kernel refuses less
// Version 1 shows "no limit" as the largest page-aligned number.
constexpr std::uint64_t kNoLimit = std::uint64_t{1} << 60;

std::vector<std::string> words(std::string_view text, char separator) {
  std::vector<std::string> result;
  std::istringstream stream{std::string(text)};
  for (std::string word; std::getline(stream, word, separator);)
    if (!word.empty()) result.push_back(word);
  return result;
}

std::string trimmed(std::string text) {
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.pop_back();
  return text;
}

Result<std::uint64_t> to_number(const std::string& text) {
  std::uint64_t value = 0;
  if (std::from_chars(text.data(), text.data() + text.size(), value).ec != std::errc{})
    return fail(ErrorCode::Internal, fmt::format("not a number: \"{}\"", text));
  return value;
}

Result<std::string> read_trimmed(const fs::path& path) {
  BATON_TRY(std::string text, read_file(path));
  return trimmed(std::move(text));
}

bool is_ours(const std::string& controller) {
  return std::ranges::find(kControllers, controller) != kControllers.end();
}

bool contains(const std::vector<std::string>& list, std::string_view wanted) {
  return std::ranges::find(list, wanted) != list.end();
}

// "3:cpu,cpuacct:/a" of /proc/self/cgroup. A mount may show only a part of a hierarchy.
fs::path own_group(const std::vector<std::string>& lines, const CgroupHierarchy& hierarchy,
                   const fs::path& mount_root) {
  for (const std::string& line : lines) {
    const std::size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const auto controllers = words(line.substr(first + 1, second - first - 1), ',');
    const bool same = hierarchy.unified
                          ? line.starts_with("0::")
                          : !controllers.empty() && contains(controllers, hierarchy.controllers[0]);
    if (!same) continue;
    const fs::path relative = fs::path(line.substr(second + 1)).lexically_relative(mount_root);
    if (relative.empty() || relative.native().starts_with("..")) return "/";
    return ("/" / relative).lexically_normal();
  }
  return "/";
}

fs::path group_directory(const CgroupHierarchy& hierarchy, const fs::path& path) {
  const fs::path relative = path.lexically_normal().relative_path();
  return relative.empty() || relative == "." ? hierarchy.mount : hierarchy.mount / relative;
}

// Version 2 gives a group only those controllers that its parent hands down.
void hand_down_controllers(const fs::path& group) {
  const auto available = read_file(group / "cgroup.controllers");
  if (!available) return;
  for (const std::string& controller : words(trimmed(*available), ' '))
    if (is_ours(controller))
      (void)write_control(group / "cgroup.subtree_control", "+" + controller);
}

Status make_group(const CgroupHierarchy& hierarchy, const fs::path& path) {
  fs::path at = hierarchy.mount;
  int made = EEXIST;
  for (const fs::path& part : path.lexically_normal().relative_path()) {
    if (hierarchy.unified) hand_down_controllers(at);
    at /= part;
    made = ::mkdir(at.c_str(), 0755) == 0 ? 0 : errno;
    if (made != 0 && made != EEXIST) return fail_errno(at.string(), made);
  }
  if (made == EEXIST)
    return fail(ErrorCode::AlreadyExists, fmt::format("{} exists already", at.string()));
  return {};
}

double least_quota_above(const fs::path& group) {
  double least = std::numeric_limits<double>::infinity();
  for (fs::path at = group.parent_path(); at.has_relative_path(); at = at.parent_path()) {
    const auto quota = read_file(at / "cpu.cfs_quota_us"),
               period = read_file(at / "cpu.cfs_period_us");
    if (!quota || !period) return least;
    const auto quota_us = to_number(trimmed(*quota)), period_us = to_number(trimmed(*period));
    if (quota_us && period_us && *period_us > 0)
      least = std::min(least, static_cast<double>(*quota_us) / static_cast<double>(*period_us));
  }
  return least;
}

// To a move by cgroup.procs every fork and exit of the machine has to give way, which takes the
// kernel 10 ms and more; to that of the calling thread alone, none.
fs::path file_to_enter(const fs::path& group, bool unified) {
  return group / (unified ? "cgroup.procs" : "tasks");
}

// A group and those below it, deepest first.
std::vector<fs::path> groups_below(const fs::path& group) {
  std::vector<fs::path> result;
  std::error_code error;
  for (fs::recursive_directory_iterator at(group, error), end; !error && at != end;
       at.increment(error))
    if (at->is_directory(error)) result.push_back(at->path());
  std::ranges::reverse(result);
  result.push_back(group);
  return result;
}

}  // namespace

Result<std::vector<CgroupHierarchy>> cgroup_hierarchies() {
  BATON_TRY(const auto mounts, read_mounts());
  BATON_TRY(const std::string own, read_file("/proc/self/cgroup"));
  const auto lines = words(own, '\n');
  std::vector<CgroupHierarchy> result;
  for (const Mount& mount : mounts) {
    if (mount.type != "cgroup" && mount.type != "cgroup2") continue;
    CgroupHierarchy hierarchy;
    hierarchy.unified = mount.type == "cgroup2";
    hierarchy.mount = mount.target;
    if (hierarchy.unified) {
      const auto controllers = read_file(mount.target / "cgroup.controllers");
      if (controllers) hierarchy.controllers = words(trimmed(*controllers), ' ');
    } else {
      for (const std::string& option : words(mount.super_options, ','))
        if (is_ours(option)) hierarchy.controllers.push_back(option);
      if (hierarchy.controllers.empty()) continue;
    }
    // The same hierarchy may be mounted twice.
    const bool seen = std::ranges::any_of(result, [&](const CgroupHierarchy& other) {
      return other.unified == hierarchy.unified && other.controllers == hierarchy.controllers;
    });
    if (seen) continue;
    hierarchy.own = own_group(lines, hierarchy, mount.root);
    result.push_back(std::move(hierarchy));
  }
  return result;
}

Result<Cgroup> Cgroup::create(const fs::path& path) {
  BATON_TRY(const auto hierarchies, cgroup_hierarchies());
  Cgroup group;
  group.path_ = path;
  Error last(ErrorCode::Unfit, "no control groups are mounted");
  for (const CgroupHierarchy& hierarchy : hierarchies) {
    const Status made = make_group(hierarchy, path);
    if (made) {
      group.members_.push_back(
          {hierarchy.unified, hierarchy.controllers, group_directory(hierarchy, path)});
      continue;
    }
    last = made.error();
    if (last.code() != ErrorCode::AlreadyExists) continue;
    (void)group.remove();
    return fail(std::move(last));
  }
  if (group.members_.empty())
    return fail(ErrorCode::Unfit,
                fmt::format("can't make control group {}: {}", path.string(), last.message()));
  return group;
}

Result<Cgroup> Cgroup::open(const fs::path& path) {
  BATON_TRY(const auto hierarchies, cgroup_hierarchies());
  Cgroup group;
  group.path_ = path;
  std::error_code error;
  for (const CgroupHierarchy& hierarchy : hierarchies)
    if (const fs::path directory = group_directory(hierarchy, path);
        fs::is_directory(directory, error))
      group.members_.push_back({hierarchy.unified, hierarchy.controllers, directory});
  if (group.members_.empty())
    return fail(ErrorCode::NotFound, fmt::format("no control group {}", path.string()));
  return group;
}

Result<Cgroup> Cgroup::own() {
  BATON_TRY(const auto hierarchies, cgroup_hierarchies());
  Cgroup group;
  for (const CgroupHierarchy& hierarchy : hierarchies)
    group.members_.push_back(
        {hierarchy.unified, hierarchy.controllers, group_directory(hierarchy, hierarchy.own)});
  if (group.members_.empty()) return fail(ErrorCode::Unfit, "no control groups are mounted");
  return group;
}

Status Cgroup::add(pid_t pid) const {
  for (const Member& member : members_)
    BATON_CHECK(write_control(member.directory / "cgroup.procs", fmt::format("{}", pid)));
  return {};
}

// Beside version 1, the unified hierarchy may have nothing for us, and to enter it takes long.
bool Cgroup::is_idle(const Member& member) const {
  return std::ranges::none_of(member.controllers, is_ours) &&
         std::ranges::any_of(members_, std::logical_not(), &Member::unified);
}

Result<std::vector<Fd>> Cgroup::open_procs_files(std::span<const std::string_view> left_out) const {
  std::vector<Fd> files;
  for (const Member& member : members_) {
    const bool is_left_out = std::ranges::any_of(
        left_out, [&](std::string_view name) { return contains(member.controllers, name); });
    if (member.unified ? is_idle(member) : is_left_out) continue;
    BATON_TRY(Fd file, open_file(file_to_enter(member.directory, member.unified), O_WRONLY));
    files.push_back(std::move(file));
  }
  return files;
}

Result<Fd> Cgroup::open_procs_file(std::string_view controller) const {
  for (const Member& member : members_)
    if (!member.unified && contains(member.controllers, controller))
      return open_file(file_to_enter(member.directory, false), O_WRONLY);
  return fail(ErrorCode::NotFound, fmt::format("no version 1 controller {}", controller));
}

std::vector<pid_t> Cgroup::processes() const {
  std::vector<pid_t> pids;
  for (const Member& member : members_) {
    for (const fs::path& group : groups_below(member.directory)) {
      const auto text = read_file(group / "cgroup.procs");
      if (!text) continue;
      std::istringstream lines(*text);
      for (pid_t pid; lines >> pid;)
        if (pid > 0) pids.push_back(pid);
    }
  }
  std::ranges::sort(pids);
  const auto same = std::ranges::unique(pids);
  pids.erase(same.begin(), same.end());
  return pids;
}

Result<const Cgroup::Member*> Cgroup::member_with(std::string_view controller,
                                                  std::string_view v1_file,
                                                  std::string_view v2_file) const {
  std::error_code error;
  for (const Member& member : members_) {
    if (!member.unified && !contains(member.controllers, controller)) continue;
    if (fs::exists(member.directory / (member.unified ? v2_file : v1_file), error)) return &member;
  }
  return fail(ErrorCode::Unfit,
              fmt::format("control group {} has no {} controller on this node",
                          path_.empty() ? "of this process" : path_.string(), controller));
}

Status Cgroup::set_cpu_quota(double cpus) const {
  BATON_TRY(const Member* member, member_with("cpu", "cpu.cfs_quota_us", "cpu.max"));
  // Version 1 refuses a quota above that of a parent, whose own then does.
  if (!member->unified && cpus >= least_quota_above(member->directory)) cpus = 0;
  const auto quota_us =
      std::max(kLeastQuotaUs,
               static_cast<std::uint64_t>(std::llround(cpus * static_cast<double>(kPeriodUs))));
  const bool none = cpus <= 0;
  if (member->unified)
    return write_control(member->directory / "cpu.max",
                         none ? "max" : fmt::format("{} {}", quota_us, kPeriodUs));
  BATON_CHECK(write_control(member->directory / "cpu.cfs_period_us", fmt::format("{}", kPeriodUs)));
  return write_control(member->directory / "cpu.cfs_quota_us",
                       none ? "-1" : fmt::format("{}", quota_us));
}

// Documentation/scheduler/sched-rt-group.rst
Status Cgroup::allow_real_time(double share) const {
  for (const Member& member : members_) {
    std::error_code error;
    if (member.unified || !fs::exists(member.directory / "cpu.rt_runtime_us", error)) continue;
    // Rounded down: the parent's share is an upper limit of the sum.
    const auto runtime_us = static_cast<std::uint64_t>(share * static_cast<double>(kPeriodUs));
    BATON_CHECK(write_control(member.directory / "cpu.rt_period_us", fmt::format("{}", kPeriodUs)));
    return write_control(member.directory / "cpu.rt_runtime_us", fmt::format("{}", runtime_us));
  }
  return {};
}

Result<double> Cgroup::cpu_quota() const {
  BATON_TRY(const Member* member, member_with("cpu", "cpu.cfs_quota_us", "cpu.max"));
  std::string quota, period;
  if (member->unified) {
    BATON_TRY(const std::string text, read_trimmed(member->directory / "cpu.max"));
    const auto parts = words(text, ' ');
    if (parts.size() != 2) return fail(ErrorCode::Internal, "unexpected cpu.max: " + text);
    quota = parts[0];
    period = parts[1];
  } else {
    BATON_TRY(quota, read_trimmed(member->directory / "cpu.cfs_quota_us"));
    BATON_TRY(period, read_trimmed(member->directory / "cpu.cfs_period_us"));
  }
  if (quota == "max" || quota.starts_with('-')) return 0.0;
  BATON_TRY(const std::uint64_t quota_us, to_number(quota));
  BATON_TRY(const std::uint64_t period_us, to_number(period));
  return period_us == 0 ? 0.0 : static_cast<double>(quota_us) / static_cast<double>(period_us);
}

Status Cgroup::set_memory_limit(std::uint64_t bytes) const {
  BATON_TRY(const Member* member, member_with("memory", "memory.limit_in_bytes", "memory.max"));
  if (member->unified)
    return write_control(member->directory / "memory.max",
                         bytes == 0 ? "max" : fmt::format("{}", bytes));
  return write_control(member->directory / "memory.limit_in_bytes",
                       bytes == 0 ? "-1" : fmt::format("{}", bytes));
}

Result<std::uint64_t> Cgroup::memory_limit_bytes() const {
  BATON_TRY(const Member* member, member_with("memory", "memory.limit_in_bytes", "memory.max"));
  BATON_TRY(
      const std::string text,
      read_trimmed(member->directory / (member->unified ? "memory.max" : "memory.limit_in_bytes")));
  if (text == "max") return std::uint64_t{0};
  BATON_TRY(const std::uint64_t bytes, to_number(text));
  return bytes >= kNoLimit ? 0 : bytes;
}

Result<std::uint64_t> Cgroup::memory_usage_bytes() const {
  BATON_TRY(const Member* member, member_with("memory", "memory.usage_in_bytes", "memory.current"));
  BATON_TRY(const std::string text,
            read_trimmed(member->directory /
                         (member->unified ? "memory.current" : "memory.usage_in_bytes")));
  return to_number(text);
}

Result<std::uint64_t> Cgroup::cpu_usage_ns() const {
  BATON_TRY(const Member* member, member_with("cpuacct", "cpuacct.usage", "cpu.stat"));
  if (!member->unified) {
    BATON_TRY(const std::string text, read_trimmed(member->directory / "cpuacct.usage"));
    return to_number(text);
  }
  BATON_TRY(const std::string text, read_file(member->directory / "cpu.stat"));
  for (const std::string& line : words(text, '\n')) {
    if (!line.starts_with("usage_usec ")) continue;
    BATON_TRY(const std::uint64_t usage_us, to_number(line.substr(11)));
    return usage_us * 1000;
  }
  return fail(ErrorCode::Internal, "cpu.stat shows no usage");
}

void Cgroup::signal_all() const {
  for (const Member& member : members_)
    if (member.unified && !is_idle(member) && write_control(member.directory / "cgroup.kill", "1"))
      return;
  // Nobody forks while frozen, so nobody is missed, and no pid becomes another's.
  std::vector<fs::path> frozen;
  for (const Member& member : members_)
    if (const fs::path state = member.directory / "freezer.state";
        write_control(state, "FROZEN").has_value())
      frozen.push_back(state);
  for (const pid_t pid : processes())
    if (const auto process = PidFd::open(pid)) (void)process->signal(SIGKILL);
  for (const fs::path& state : frozen) (void)write_control(state, "THAWED");
}

Status Cgroup::kill(std::chrono::milliseconds timeout) const {
  const auto end = std::chrono::steady_clock::now() + timeout;
  for (;;) {
    std::vector<PidFd> left;
    for (const pid_t pid : processes())
      if (auto process = PidFd::open(pid)) left.push_back(std::move(*process));
    if (left.empty() && processes().empty()) return {};
    signal_all();
    for (const PidFd& process : left) {
      const auto now = std::chrono::steady_clock::now();
      const auto rest = std::chrono::ceil<std::chrono::milliseconds>(end - now);
      if (now >= end || !process.wait_ended(rest))
        return fail(ErrorCode::TimedOut,
                    fmt::format("processes of control group {} don't end", path_.string()));
    }
  }
}

Status Cgroup::remove() const {
  if (!processes().empty())
    return fail(ErrorCode::FailedPrecondition,
                fmt::format("control group {} still has processes", path_.string()));
  // The kernel lets go of a group a moment after it has reported its last process's end.
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(2);
  for (const Member& member : members_) {
    for (const fs::path& group : groups_below(member.directory)) {
      while (::rmdir(group.c_str()) != 0 && errno != ENOENT) {
        if (errno != EBUSY || std::chrono::steady_clock::now() > end)
          return fail_errno(fmt::format("remove control group {}", group.string()));
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
    }
  }
  return {};
}

}  // namespace baton::sys
