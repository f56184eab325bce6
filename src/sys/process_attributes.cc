#include "sys/process_attributes.h"

#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <iterator>
#include <map>
#include <memory>

#include "sys/file.h"

namespace baton::sys {
namespace {

constexpr int ioprio_who_process = 1;
constexpr int cpus_max = 8192;

struct CpuSetFree {
  void operator()(cpu_set_t* set) const { CPU_FREE(set); }
};
using CpuSet = std::unique_ptr<cpu_set_t, CpuSetFree>;

fs::path proc(pid_t pid, std::string_view name) { return fmt::format("/proc/{}/{}", pid, name); }

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.remove_suffix(1);
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  return text;
}

template <typename Number>
Number number_from(std::string_view text, int base = 10) {
  Number value{};
  text = trimmed(text);
  std::from_chars(text.data(), text.data() + text.size(), value, base);
  return value;
}

Result<ThreadAttributes> read_thread(pid_t tid) {
  ThreadAttributes thread;
  BATON_TRY(thread.inner_tid, inner_id(tid));
  BATON_TRY(thread.cpus, allowed_cpus(tid));
  thread.io_priority = static_cast<int>(::syscall(SYS_ioprio_get, ioprio_who_process, tid));
  if (thread.io_priority < 0) thread.io_priority = 0;
  if (auto slack = read_file(proc(tid, "timerslack_ns")))
    thread.timer_slack_ns = number_from<std::uint64_t>(*slack);
  return thread;
}

Status set_cpus(pid_t tid, const std::vector<int>& cpus) {
  CpuSet set(CPU_ALLOC(cpus_max));
  std::size_t size = CPU_ALLOC_SIZE(cpus_max);
  CPU_ZERO_S(size, set.get());
  for (int cpu : cpus) CPU_SET_S(static_cast<std::size_t>(cpu), size, set.get());
  if (::sched_setaffinity(tid, size, set.get()) != 0) return fail_errno("set affinity");
  return {};
}

void apply_thread(pid_t tid, const ThreadAttributes& wanted, const std::vector<int>& available,
                  std::vector<std::string>& refused) {
  auto current = read_thread(tid);
  if (!current) return;
  auto note = [&](const Status& status) {
    if (!status)
      refused.push_back(fmt::format("thread {}: {}", wanted.inner_tid, status.error().message()));
  };
  std::vector<int> cpus;
  std::ranges::set_intersection(wanted.cpus, available, std::back_inserter(cpus));
  if (!cpus.empty() && cpus != current->cpus) note(set_cpus(tid, cpus));
  if (wanted.io_priority != current->io_priority &&
      ::syscall(SYS_ioprio_set, ioprio_who_process, tid, wanted.io_priority) != 0)
    note(fail_errno("set I/O priority"));
  // Zero is what real-time threads have, and writing it would mean "the default".
  if (wanted.timer_slack_ns != 0 && wanted.timer_slack_ns != current->timer_slack_ns)
    note(write_control(proc(tid, "timerslack_ns"), std::to_string(wanted.timer_slack_ns)));
}

}  // namespace

Result<std::string> status_field(pid_t pid, std::string_view field) {
  BATON_TRY(std::string status, read_file(proc(pid, "status")));
  std::string_view rest = status;
  while (!rest.empty()) {
    auto end = rest.find('\n');
    auto line = rest.substr(0, end);
    if (line.size() > field.size() && line.starts_with(field) && line[field.size()] == ':')
      return std::string(trimmed(line.substr(field.size() + 1)));
    if (end == std::string_view::npos) break;
    rest.remove_prefix(end + 1);
  }
  return fail(ErrorCode::NotFound, fmt::format("/proc/{}/status has no {}", pid, field));
}

Result<pid_t> inner_id(pid_t pid) {
  BATON_TRY(std::string ids, status_field(pid, "NSpid"));
  auto last = ids.find_last_of("\t ");
  return number_from<pid_t>(last == std::string::npos ? ids : ids.substr(last + 1));
}

Result<std::vector<int>> allowed_cpus(pid_t pid) {
  CpuSet set(CPU_ALLOC(cpus_max));
  std::size_t size = CPU_ALLOC_SIZE(cpus_max);
  if (::sched_getaffinity(pid, size, set.get()) != 0) return fail_errno("get affinity");
  std::vector<int> cpus;
  for (int cpu = 0; cpu < cpus_max; ++cpu)
    if (CPU_ISSET_S(static_cast<std::size_t>(cpu), size, set.get())) cpus.push_back(cpu);
  return cpus;
}

std::vector<pid_t> thread_ids(pid_t pid) {
  std::vector<pid_t> ids;
  std::error_code error;
  fs::directory_iterator at(proc(pid, "task"), error);
  for (; !error && at != fs::directory_iterator(); at.increment(error))
    ids.push_back(number_from<pid_t>(at->path().filename().native()));
  return ids;
}

Result<ProcessAttributes> read_process_attributes(pid_t pid) {
  ProcessAttributes process;
  BATON_TRY(process.inner_pid, inner_id(pid));
  if (auto filter = read_file(proc(pid, "coredump_filter")))
    process.coredump_filter = trimmed(*filter);
  if (auto personality = read_file(proc(pid, "personality")))
    process.personality = number_from<std::uint32_t>(*personality, 16);
  for (pid_t tid : thread_ids(pid))
    if (auto thread = read_thread(tid)) process.threads.push_back(std::move(*thread));
  return process;
}

std::vector<std::string> apply_process_attributes(pid_t pid, const ProcessAttributes& attributes,
                                                  const std::vector<int>& available_cpus) {
  std::vector<std::string> refused;
  auto filter = read_file(proc(pid, "coredump_filter"));
  if (filter && !attributes.coredump_filter.empty() &&
      trimmed(*filter) != attributes.coredump_filter) {
    if (auto status =
            write_control(proc(pid, "coredump_filter"), "0x" + attributes.coredump_filter);
        !status)
      refused.push_back(status.error().message());
  }
  std::map<pid_t, pid_t> by_inner;
  for (pid_t tid : thread_ids(pid))
    if (auto inner = inner_id(tid)) by_inner[*inner] = tid;
  for (const auto& thread : attributes.threads)
    if (auto at = by_inner.find(thread.inner_tid); at != by_inner.end())
      apply_thread(at->second, thread, available_cpus, refused);
  return refused;
}

}  // namespace baton::sys
