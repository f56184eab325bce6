#include "agent/sandbox_command.h"

#include <sys/mman.h>
#include <unistd.h>

#include <charconv>
#include <set>

#include "sys/file.h"
#include "sys/process.h"

namespace baton::agent {
namespace {

// CRIU forks a helper or two for each task it restores.
constexpr pid_t kWindow = 512;
constexpr pid_t kLowestPid = 300;  // below, the kernel starts again after the range's end

Status check_text(std::string_view what, std::string_view text) {
  if (text.find('\0') == std::string_view::npos) return {};
  return fail(ErrorCode::InvalidArgument, fmt::format("{} contains a NUL byte", what));
}

Status check_command(const CommandSpec& command) {
  if (command.argv.empty() || command.argv[0].empty())
    return fail(ErrorCode::InvalidArgument, "the command is empty");
  for (const std::string& argument : command.argv) BATON_CHECK(check_text("an argument", argument));
  for (const auto& [name, value] : command.env) {
    if (name.empty() || name.find('=') != std::string::npos)
      return fail(ErrorCode::InvalidArgument,
                  fmt::format("not a name of an environment variable: \"{}\"", name));
    BATON_CHECK(check_text("the environment", name));
    BATON_CHECK(check_text("the environment", value));
  }
  BATON_CHECK(check_text("the user's name", command.user));
  BATON_CHECK(check_text("the working directory", command.workdir));
  if (!command.workdir.starts_with('/'))
    return fail(ErrorCode::InvalidArgument,
                fmt::format("working directory \"{}\" is not an absolute path", command.workdir));
  return {};
}

}  // namespace

Result<Fd> pack_command(const CommandSpec& command) {
  BATON_CHECK(check_command(command));
  std::string text;
  const auto add = [&text](std::string_view verb, std::string_view value) {
    text.append(verb).push_back('\0');
    text.append(value).push_back('\0');
  };
  for (const std::string& argument : command.argv) add("arg", argument);
  for (const auto& [name, value] : command.env) add("env", name + "=" + value);
  add("workdir", command.workdir);
  add("user", command.user);
  add("capabilities", fmt::format("{:x}", command.capabilities));
  add("privileges", command.new_privileges ? "new" : "old");
  add("stdin", command.stdin_data.empty() ? "null" : "data");
  Fd memory(::memfd_create("baton-command", MFD_CLOEXEC));
  if (!memory.valid()) return fail_errno("memfd_create");
  BATON_CHECK(sys::write_all(memory.get(), text));
  return memory;
}

Result<pid_t> free_pid_window(pid_t init_pid, const std::vector<pid_t>& keep_free) {
  std::set<pid_t> taken(keep_free.begin(), keep_free.end());
  for (const pid_t pid : sys::process_tree(init_pid))
    if (const auto pids = sys::namespace_pids(pid)) taken.insert(pids->back());
  BATON_TRY(const std::string text, sys::read_file("/proc/sys/kernel/pid_max"));
  pid_t pid_max = 0;
  std::from_chars(text.data(), text.data() + text.size(), pid_max);
  pid_t first = pid_max - kWindow - 1;
  // From the top down: begin below each taken pid that lies in the window.
  for (auto at = taken.rbegin(); at != taken.rend(); ++at)
    if (*at >= first && *at <= first + kWindow) first = *at - kWindow - 1;
  if (first > kLowestPid) return first;
  return fail(ErrorCode::Unfit, "the job leaves no room for CRIU's pids");
}

}  // namespace baton::agent
