#include "agent/engine/roll_call.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>

#include "base/clock.h"
#include "base/fd.h"
#include "sys/file.h"
#include "sys/process_attributes.h"

namespace baton::agent {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t code_bytes = 64;
constexpr std::string_view parasite_name = "CRIUMFD";
constexpr std::int64_t settle_limit_ms = 1000;
constexpr int settle_step_ms = 5;

struct Range {
  std::uint64_t start = 0;
  std::uint64_t end = 0;
};

std::uint64_t hex(std::string_view text) {
  std::uint64_t value = 0;
  std::from_chars(text.data(), text.data() + text.size(), value, 16);
  return value;
}

// Field 22 of /proc/PID/stat, counted behind the name, which may hold anything.
std::uint64_t start_ticks(pid_t pid) {
  auto stat = sys::read_file(fmt::format("/proc/{}/stat", pid));
  if (!stat) return 0;
  std::string_view rest = *stat;
  rest.remove_prefix(std::min(rest.size(), rest.rfind(')') + 1));
  for (int field = 2; field < 22; ++field) {
    auto blank = rest.find(' ');
    if (blank == std::string_view::npos) return 0;
    rest.remove_prefix(blank + 1);
  }
  std::uint64_t value = 0;
  std::from_chars(rest.data(), rest.data() + rest.size(), value);
  return value;
}

struct Mappings {
  Range code;
  std::vector<Range> parasites;
  std::vector<Range> others;
};

bool within(std::uint64_t address, const std::vector<Range>& ranges) {
  return std::ranges::any_of(
      ranges, [&](const Range& range) { return address >= range.start && address < range.end; });
}

Mappings read_mappings(pid_t pid) {
  Mappings mappings;
  auto maps = sys::read_file(fmt::format("/proc/{}/maps", pid), 256u << 20);
  if (!maps) return mappings;
  std::string_view rest = *maps;
  while (!rest.empty()) {
    auto end = rest.find('\n');
    auto line = rest.substr(0, end);
    auto dash = line.find('-');
    auto blank = line.find(' ');
    if (dash != std::string_view::npos && blank != std::string_view::npos &&
        blank + 4 < line.size()) {
      Range range{hex(line.substr(0, dash)), hex(line.substr(dash + 1, blank - dash - 1))};
      bool is_parasite = line.find(parasite_name) != std::string_view::npos;
      (is_parasite ? mappings.parasites : mappings.others).push_back(range);
      if (!is_parasite && line[blank + 3] == 'x' && mappings.code.end == 0) mappings.code = range;
    }
    if (end == std::string_view::npos) break;
    rest.remove_prefix(end + 1);
  }
  return mappings;
}

std::string read_memory(pid_t pid, std::uint64_t address) {
  auto memory = sys::open_file(fmt::format("/proc/{}/mem", pid), O_RDONLY);
  std::string bytes(code_bytes, '\0');
  if (!memory || !sys::pread_all(memory->get(), bytes.data(), bytes.size(), address)) return {};
  return bytes;
}

// A thread that waits in a system call, or is stopped. All 0 when it runs.
struct Waiting {
  std::uint64_t at = 0;  // the instruction pointer
  long call = 0;         // -1: in none
};

Waiting waiting(pid_t tid) {
  auto text = sys::read_file(fmt::format("/proc/{}/syscall", tid));
  if (!text) return {};
  auto blank = text->rfind(' ');
  if (blank == std::string::npos) return {};
  std::string_view pointer(*text);
  pointer.remove_prefix(blank + 1);
  if (pointer.starts_with("0x")) pointer.remove_prefix(2);
  return {hex(pointer), std::strtol(text->c_str(), nullptr, 10)};
}

bool has_borrowed_mask(const std::string& blocked, const RollCall::Thread& before) {
  constexpr int blocked_by_criu_at_least = 60;
  return blocked != before.blocked_signals &&
         __builtin_popcountll(hex(blocked)) >= blocked_by_criu_at_least;
}

std::string thread_damage(pid_t tid, const RollCall::Thread& before,
                          const std::vector<Range>& parasites) {
  auto state = sys::status_field(tid, "State");
  auto blocked = sys::status_field(tid, "SigBlk");
  if (!state || !blocked) return fmt::format("thread {} is gone", tid);
  if (state->starts_with("t")) return fmt::format("thread {} is still held", tid);
  if (has_borrowed_mask(*blocked, before))
    return fmt::format("thread {} was left with its signals blocked", tid);
  if (within(waiting(tid).at, parasites))
    return fmt::format("thread {} is stuck in CRIU's code", tid);
  return {};
}

std::string process_damage(pid_t pid, const RollCall::Process& before) {
  auto state = sys::status_field(pid, "State");
  if (!state || start_ticks(pid) != before.start_ticks || state->starts_with("Z"))
    return fmt::format("process {} is gone", before.inner_pid);
  auto parasites = read_mappings(pid).parasites;
  for (const auto& [tid, thread] : before.threads)
    if (auto damage = thread_damage(tid, thread, parasites); !damage.empty())
      return fmt::format("process {}: {}", before.inner_pid, damage);
  if (!before.code.empty() && read_memory(pid, before.code_address) != before.code)
    return fmt::format("process {}: its code was left changed", before.inner_pid);
  return {};
}

// Whether the thread would run on as if nothing had happened if its tracer were gone. It is at a
// place of its own, with signals of its own; or it is the leader in the parasite's loop, from which
// it finds back when it sees its socket close. What runs is not known to be anywhere: a parasite
// may be about to run into a breakpoint (CRIU sets one in a debug register to end it), or to return
// from the call that unmapped it.
bool may_go(pid_t tid, bool leader, const RollCall::Thread* before, const Mappings& mappings,
            const RollCall::Process& process) {
  auto state = sys::status_field(tid, "State");
  auto tracer = sys::status_field(tid, "TracerPid");
  if (!state || !tracer || std::string_view("ZX").contains(state->front())) return true;
  if (*tracer == "0") return true;
  const Waiting where = waiting(tid);
  const bool stopped = state->starts_with("t");
  if (within(where.at, mappings.parasites))
    return leader && !stopped && (where.call == SYS_recvfrom || where.call == SYS_recvmsg);
  const bool in_lent_code = where.at - process.code_address < code_bytes;
  if (where.at == 0 || in_lent_code || !within(where.at, mappings.others)) return false;
  auto blocked = sys::status_field(tid, "SigBlk");
  return !before || !blocked || !has_borrowed_mask(*blocked, *before);
}

// CRIU reads a connection's state in repair mode, in which the socket is mute.
void leave_repair_mode(pid_t pid) {
  Fd process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (!process.valid()) return;
  std::error_code error;
  fs::directory_iterator at(fmt::format("/proc/{}/fd", pid), error);
  for (; !error && at != fs::directory_iterator(); at.increment(error)) {
    std::error_code ignored;
    if (!fs::read_symlink(at->path(), ignored).native().starts_with("socket:")) continue;
    int number = std::atoi(at->path().filename().c_str());
    Fd socket(static_cast<int>(::syscall(SYS_pidfd_getfd, process.get(), number, 0)));
    int repair = 0;
    socklen_t size = sizeof repair;
    if (socket.valid() &&
        ::getsockopt(socket.get(), IPPROTO_TCP, TCP_REPAIR, &repair, &size) == 0 && repair == 1) {
      repair = 0;
      ::setsockopt(socket.get(), IPPROTO_TCP, TCP_REPAIR, &repair, sizeof repair);
    }
  }
}

}  // namespace

RollCall take_roll_call(const std::vector<std::pair<pid_t, pid_t>>& processes) {
  RollCall roll;
  for (auto [inner, pid] : processes) {
    RollCall::Process process;
    process.inner_pid = inner;
    process.start_ticks = start_ticks(pid);
    auto state = sys::status_field(pid, "State");
    if (process.start_ticks == 0 || !state || state->starts_with("Z")) continue;
    for (pid_t tid : sys::thread_ids(pid))
      if (auto blocked = sys::status_field(tid, "SigBlk")) process.threads[tid] = {*blocked};
    auto mappings = read_mappings(pid);
    if (mappings.code.end != 0) {
      process.code_address = mappings.code.start;
      process.code = read_memory(pid, process.code_address);
    }
    roll.processes.emplace(pid, std::move(process));
  }
  return roll;
}

bool can_be_let_go(const RollCall& before) {
  for (const auto& [pid, process] : before.processes) {
    if (!process.code.empty() && read_memory(pid, process.code_address) != process.code)
      return false;
    const Mappings mappings = read_mappings(pid);
    for (pid_t tid : sys::thread_ids(pid)) {
      auto thread = process.threads.find(tid);
      if (!may_go(tid, tid == pid, thread == process.threads.end() ? nullptr : &thread->second,
                  mappings, process))
        return false;
    }
  }
  return true;
}

std::string find_damage(const RollCall& before) {
  const std::int64_t deadline_ms = boot_time_ms() + settle_limit_ms;
  for (const auto& [pid, process] : before.processes) leave_repair_mode(pid);
  for (;;) {
    std::string damage;
    for (const auto& [pid, process] : before.processes) {
      damage = process_damage(pid, process);
      if (!damage.empty()) break;
    }
    // The kernel tells nobody when a task leaves the parasite, so it is looked at until it has.
    bool may_pass =
        damage.ends_with("held") || damage.ends_with("blocked") || damage.ends_with("code");
    if (!may_pass || boot_time_ms() >= deadline_ms) return damage;
    ::poll(nullptr, 0, settle_step_ms);
  }
}

}  // namespace baton::agent
