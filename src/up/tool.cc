#include "up/tool.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <sstream>

#include "sys/file.h"

namespace baton::up {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> environment() {
  std::vector<std::string> out;
  for (char** entry = environ; *entry; ++entry) out.emplace_back(*entry);
  return out;
}

Result<std::string> find_program(const std::string& name) {
  const char* path = std::getenv("PATH");
  std::istringstream folders(std::string(path ? path : "") + ":/usr/sbin:/sbin:/usr/bin:/bin");
  for (std::string folder; std::getline(folders, folder, ':');)
    if (!folder.empty() && ::access((fs::path(folder) / name).c_str(), X_OK) == 0)
      return (fs::path(folder) / name).string();
  return fail(ErrorCode::NotFound, fmt::format("the program \"{}\" is not installed", name));
}

// Everything written to a memory file, without the last newline.
std::string content_of(int fd) {
  std::string text;
  std::array<char, 4096> block;
  ::lseek(fd, 0, SEEK_SET);
  for (ssize_t n; (n = ::read(fd, block.data(), block.size())) > 0;)
    text.append(block.data(), static_cast<std::size_t>(n));
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

}  // namespace

Status run_tool(const std::vector<std::string>& command) {
  BATON_TRY(const std::string program, find_program(command.at(0)));
  const Fd errors(::memfd_create("stderr", MFD_CLOEXEC));
  if (!errors.valid()) return fail_errno("memfd_create");
  BATON_TRY(const Fd nothing, sys::open_file("/dev/null", O_RDWR));
  BATON_TRY(const sys::Spawned child,
            sys::spawn({.program = program,
                        .argv = command,
                        .env = environment(),
                        .fds = {{nothing.get(), 0}, {nothing.get(), 1}, {errors.get(), 2}}}));
  const int status = reap(child.pid);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return {};
  return fail(ErrorCode::Internal,
              fmt::format("{}: {} ({})", fmt::join(command, " "), content_of(errors.get()),
                          describe_wait_status(status)));
}

sys::SpawnRequest ourselves(const std::vector<std::string>& arguments) {
  sys::SpawnRequest request;
  request.program = "/proc/self/exe";
  request.argv = {"baton"};
  request.argv.insert(request.argv.end(), arguments.begin(), arguments.end());
  request.env = environment();
  return request;
}

std::string describe_wait_status(int status) {
  if (WIFSIGNALED(status)) {
    const char* name = ::sigabbrev_np(WTERMSIG(status));
    return fmt::format("signal {}", name ? name : std::to_string(WTERMSIG(status)));
  }
  return fmt::format("exit code {}", WEXITSTATUS(status));
}

int reap(pid_t pid) {
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  return status;
}

}  // namespace baton::up
