#include "agent/sandbox.h"

#include <fcntl.h>
#include <signal.h>

#include <atomic>
#include <mutex>

#include "agent/sandbox_client.h"
#include "agent/sandbox_command.h"
#include "agent/sandbox_create.h"
#include "agent/sandbox_layout.h"
#include "agent/sandbox_state.h"
#include "base/log.h"
#include "sys/file.h"
#include "sys/process.h"

namespace baton::agent {
namespace {

namespace fs = std::filesystem;
using init::Op;
using init::Request;

constexpr std::chrono::milliseconds kGentleKill{2000};
constexpr std::chrono::milliseconds kHardKill{30000};

std::int64_t request_of(CriuIpc ipc) {
  switch (ipc) {
    case CriuIpc::Outside: return static_cast<std::int64_t>(init::Ipc::Outside);
    case CriuIpc::Tree: return static_cast<std::int64_t>(init::Ipc::Root);
    case CriuIpc::Fresh: return static_cast<std::int64_t>(init::Ipc::Fresh);
  }
  return 0;
}

class ConnectionGuard final : public SandboxGuard {
 public:
  explicit ConnectionGuard(InitConnection connection) : connection_(std::move(connection)) {}

  Status arm() { return ask({.op = Op::DieWithAgent, .a = 1}); }
  Status keep(int fd) override { return ask({.op = Op::Keep}, fd); }
  Status release() override { return ask({.op = Op::DieWithAgent, .a = 0}); }
  void kill() override {
    std::lock_guard lock(mutex_);
    (void)connection_.tell({.op = Op::Kill});
  }

 private:
  Status ask(const Request& request, int fd = -1) {
    std::lock_guard lock(mutex_);
    BATON_CHECK(connection_.ask(request, fd));
    return {};
  }
  std::mutex mutex_;
  InitConnection connection_;
};

class RunningSandbox final : public Sandbox {
 public:
  RunningSandbox(SandboxState state, sys::Spawned init, InitConnection connection)
      : state_(std::move(state)), init_(std::move(init)), connection_(std::move(connection)) {}

  // Must succeed once before anything else is asked of it.
  Status attach() {
    BATON_TRY(root_, sys::open_file(fmt::format("/proc/{}/root", init_.pid), O_PATH | O_DIRECTORY));
    // The answer also proves that the pid was still pid 1's all the time.
    BATON_TRY(const InitReply reply, connection_.ask(Request{.op = Op::Status}));
    root_pid_ = static_cast<pid_t>(reply.values[0]);
    command_pid_ = static_cast<pid_t>(reply.values[1]);
    return {};
  }

  const SandboxSpec& spec() const override { return state_.spec; }
  fs::path output_file() const override { return directory() / "io/output"; }
  fs::path images_directory() const override { return directory() / "images"; }
  fs::path quick_images_directory() const override { return inside(init::kQuickImagesPath); }

  const sys::PidFd& pidfd() const { return init_.pidfd; }

  std::vector<std::pair<std::string, fs::path>> private_trees() const override {
    auto trees = upper_trees(directory(), state_.layout);
    trees.emplace_back("dev-shm", inside("/dev/shm"));
    trees.emplace_back("run", inside("/run"));
    return trees;
  }

  Status start(const CommandSpec& command) override {
    BATON_TRY(const Fd packed, pack_command(command));
    if (!command.stdin_data.empty())
      BATON_CHECK_CTX(write_inside(init::kStdinPath, command.stdin_data, 0444), "standard input");
    BATON_TRY(const InitReply reply, ask_init(directory(), Request{.op = Op::Start}, packed.get()));
    root_pid_ = static_cast<pid_t>(reply.values[0]);
    command_pid_ = static_cast<pid_t>(reply.values[1]);
    return {};
  }

  Status adopt_restored(pid_t root_pid, pid_t command_pid) override {
    BATON_CHECK(
        ask_init(directory(), Request{.op = Op::AdoptRestored, .a = root_pid, .b = command_pid}));
    root_pid_ = root_pid;
    command_pid_ = command_pid;
    return {};
  }

  Result<CriuWorker> launch_criu(const std::vector<pid_t>& keep_free, CriuIpc ipc) override {
    const fs::path& prefix = state_.spec.criu_prefix;
    std::error_code error;
    if (prefix.empty() || !fs::exists(prefix / "lib/ld.so", error) ||
        !fs::exists(prefix / "bin/criu", error))
      return fail(ErrorCode::Unfit, fmt::format("there is no CRIU at \"{}\"", prefix.string()));
    exchange_kdat();
    BATON_TRY(const pid_t first_pid, free_pid_window(init_.pid, keep_free));
    const std::int64_t shim = find_shim().empty() ? 0 : 1;
    BATON_TRY(InitReply reply,
              ask_init(directory(),
                       Request{.op = Op::LaunchCriu, .a = first_pid, .b = shim | request_of(ipc)}));
    if (reply.fds.size() != 2)
      return fail(ErrorCode::Internal, "the sandbox's pid 1 gave no socket to CRIU");
    return CriuWorker{std::move(reply.fds[0]), std::move(reply.fds[1])};
  }

  pid_t root_pid_inner() const override { return root_pid_; }
  pid_t command_pid_inner() const override { return command_pid_; }
  pid_t init_pid() const override { return init_.pid; }

  Result<std::vector<std::pair<pid_t, pid_t>>> processes() const override {
    for (const pid_t candidate : sys::process_tree(init_.pid)) {
      const auto pids = sys::namespace_pids(candidate);
      if (!pids || pids->back() != root_pid_) continue;
      std::vector<std::pair<pid_t, pid_t>> result;
      for (const pid_t outer : sys::process_tree(candidate))
        if (const auto inner = sys::namespace_pids(outer))
          result.emplace_back(inner->back(), outer);
      return result;
    }
    return fail(ErrorCode::FailedPrecondition, "no command runs in this sandbox");
  }

  Status set_lease_deadline(std::int64_t deadline_boot_ns) override {
    BATON_CHECK(ask_init(directory(), Request{.op = Op::SetLease, .a = deadline_boot_ns}));
    return {};
  }

  Status declare_unharmed() override {
    BATON_CHECK(ask_init(directory(), Request{.op = Op::Unharmed}));
    return {};
  }

  Status set_die_with_agent(bool armed) override {
    BATON_CHECK(connection_.ask(Request{.op = Op::DieWithAgent, .a = armed ? 1 : 0}));
    return {};
  }

  Result<std::unique_ptr<SandboxGuard>> guard() override {
    BATON_TRY(auto connection, InitConnection::open(directory()));
    auto guard = std::make_unique<ConnectionGuard>(std::move(connection));
    BATON_CHECK(guard->arm());
    return guard;
  }

  Status signal(int number) override {
    BATON_CHECK(ask_init(directory(), Request{.op = Op::Signal, .a = number}));
    return {};
  }

  Status kill() override {
    exchange_kdat();
    // Pid 1 ends without an answer.
    if (auto connection = InitConnection::open(directory())) {
      const Status told = connection->tell(Request{.op = Op::Kill});
      if (!told) spdlog::debug("kill: {}", told.error().message());
    }
    if (!init_.pidfd.wait_ended(kGentleKill)) {
      // It may be stopped, or write its last words to a disk that hangs.
      (void)init_.pidfd.signal(SIGKILL);
      if (!init_.pidfd.wait_ended(kHardKill))
        return fail(ErrorCode::TimedOut,
                    fmt::format("pid {} does not end after SIGKILL", init_.pid));
    }
    init_.pidfd.reap();
    if (!fs::exists(directory() / kExitFile)) return write_killed_exit(directory());
    return {};
  }

  int ended_fd() const override { return init_.pidfd.get(); }
  bool is_ending() const override {
    if (init_.pidfd.wait_ended(std::chrono::milliseconds(0))) return true;
    const auto name = sys::read_file(fmt::format("/proc/{}/comm", init_.pid));
    return !name || *name == std::string(init::kEndingName) + "\n";
  }

  std::optional<SandboxExit> exit() const override {
    if (!init_.pidfd.wait_ended(std::chrono::milliseconds(0))) return std::nullopt;
    init_.pidfd.reap();
    const auto exit = read_exit(directory());
    return exit ? *exit : SandboxExit{};
  }

 private:
  const fs::path& directory() const { return state_.spec.directory; }
  // Through a descriptor: a path by pid would lead elsewhere once the pid is another's.
  fs::path inside(const fs::path& path) const {
    return fmt::format("/proc/{}/fd/{}", ::getpid(), root_.get()) / path.relative_path();
  }

  Status write_inside(const fs::path& path, std::string_view data, mode_t mode) const {
    BATON_TRY(const Fd file, sys::open_file(inside(path), O_WRONLY | O_CREAT | O_TRUNC, mode));
    return sys::write_all(file.get(), data);
  }

  // CRIU keeps what it found out about the kernel in /run, which here is the sandbox's own and
  // begins empty. It only saves time: nothing depends on it.
  void exchange_kdat() {
    const fs::path& cache = state_.spec.criu_kdat_cache;
    if (cache.empty()) return;
    std::error_code error;
    const fs::path own = inside("/run/criu.kdat");
    if (fs::exists(own, error) == fs::exists(cache, error)) return;
    const bool save = fs::exists(own, error);
    const auto content = sys::read_file(save ? own : cache, 1 << 20);
    if (!content) return;
    const Status copied = save ? sys::write_file_durable(cache, *content, 0600)
                               : write_inside("/run/criu.kdat", *content, 0600);
    if (!copied) spdlog::debug("criu.kdat: {}", copied.error().message());
  }

  SandboxState state_;
  sys::Spawned init_;
  InitConnection connection_;
  Fd root_;  // "/" of the sandbox
  std::atomic<pid_t> root_pid_{0};
  std::atomic<pid_t> command_pid_{0};
};

}  // namespace

Result<std::unique_ptr<Sandbox>> Sandbox::create(const SandboxSpec& spec) {
  BATON_TRY(CreatedSandbox created, create_sandbox(spec));
  auto connection = InitConnection::open(created.state.spec.directory);
  if (!connection) {
    discard(created.state, created.init.pidfd);
    return fail(std::move(connection).error());
  }
  auto sandbox = std::make_unique<RunningSandbox>(created.state, std::move(created.init),
                                                  std::move(*connection));
  if (Status attached = sandbox->attach(); !attached) {
    discard(created.state, sandbox->pidfd());
    return fail(std::move(attached).error());
  }
  return sandbox;
}

Result<std::unique_ptr<Sandbox>> Sandbox::adopt(const fs::path& directory) {
  BATON_TRY(SandboxState state, load_state(directory));
  auto connection = InitConnection::open(directory);
  if (connection) {
    BATON_TRY(const pid_t pid, connection->peer_pid());
    BATON_TRY(sys::PidFd pidfd, sys::PidFd::open(pid));
    auto sandbox = std::make_unique<RunningSandbox>(
        std::move(state), sys::Spawned{pid, std::move(pidfd)}, std::move(*connection));
    const Status attached = sandbox->attach();
    if (attached) return sandbox;
    if (attached.error().code() == ErrorCode::TimedOut) return fail(attached.error());
  } else if (connection.error().code() != ErrorCode::NotFound) {
    return fail(connection.error());
  }
  // Its socket closes a moment before the last process of the sandbox is gone.
  if (const auto init = recorded_init(directory)) {
    if (!init->wait_ended(kHardKill))
      return fail(ErrorCode::TimedOut, "the sandbox is ending and does not come to its end");
    init->reap();
  }
  return fail(ErrorCode::NotFound, "the sandbox has ended");
}

}  // namespace baton::agent
