#include "agent/health.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>

#include "base/log.h"
#include "sys/process.h"
#include "wire/channel.h"

namespace baton::agent {
namespace {

constexpr std::size_t kOutputBytes = 200;

std::string first_line(std::string text) {
  text.resize(std::min(text.find('\n'), text.size()));
  return text;
}

}  // namespace

// The command runs below a small shell that makes it a process group of its own, so that a
// time-out ends all of it.
Status run_health_command(const std::string& command, std::chrono::milliseconds limit,
                          int stop_fd) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return fail_errno("pipe");
  Fd reader(ends[0]);
  Fd writer(ends[1]);
  Fd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  sys::SpawnRequest request;
  request.program = "/usr/bin/setsid";
  request.argv = {"setsid", "sh", "-c", command};
  for (char** variable = environ; *variable; ++variable)
    if (!wire::is_of_wait_apart(*variable)) request.env.emplace_back(*variable);
  request.fds = {{null.get(), 0}, {writer.get(), 1}, {writer.get(), 2}};
  BATON_TRY(sys::Spawned child, sys::spawn(request));
  writer.reset();
  pollfd fds[] = {{child.pidfd.get(), POLLIN, 0}, {stop_fd, POLLIN, 0}};
  ::poll(fds, 2, static_cast<int>(limit.count()));
  const bool ended = child.pidfd.wait_ended(std::chrono::milliseconds(0));
  // setsid made its pid the group's id. Unreaped, that pid can't be another's.
  ::kill(-child.pid, SIGKILL);
  if (!ended) (void)child.pidfd.signal(SIGKILL);
  int status = 0;
  while (::waitpid(child.pid, &status, 0) < 0 && errno == EINTR) {
  }
  char buffer[kOutputBytes] = {};
  ::fcntl(reader.get(), F_SETFL, O_NONBLOCK);
  const ssize_t count = ::read(reader.get(), buffer, sizeof(buffer) - 1);
  const std::string said = count > 0 ? ": " + first_line(buffer) : "";
  if (!ended && fds[1].revents != 0) return fail(ErrorCode::Cancelled, "broken off");
  if (!ended)
    return fail(ErrorCode::TimedOut, fmt::format("no answer within {} ms{}", limit.count(), said));
  if (WIFSIGNALED(status))
    return fail(ErrorCode::Internal, fmt::format("signal {}{}", WTERMSIG(status), said));
  if (WEXITSTATUS(status) != 0)
    return fail(ErrorCode::Internal, fmt::format("exit code {}{}", WEXITSTATUS(status), said));
  return {};
}

class HealthMonitor::Runner {
 public:
  explicit Runner(HealthCheck check)
      : check_(std::move(check)), verdict_(check_.failures), thread_([this] { loop(); }) {}
  ~Runner() {
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    changed_.notify_all();
    const std::uint64_t one = 1;
    (void)!::write(stop_.get(), &one, sizeof(one));
    thread_.join();
  }

  std::optional<std::string> about_to_fail() const {
    std::lock_guard lock(mutex_);
    return verdict_.about_to_fail();
  }

 private:
  void loop() {
    std::unique_lock lock(mutex_);
    while (!stopping_) {
      const auto began = std::chrono::steady_clock::now();
      lock.unlock();
      const Status status = run_health_command(check_.command, check_.interval, stop_.get());
      lock.lock();
      if (stopping_) return;
      note(status);
      changed_.wait_until(lock, began + check_.interval, [this] { return stopping_; });
    }
  }

  void note(const Status& status) {
    const bool before = verdict_.about_to_fail().has_value();
    if (status) {
      verdict_.succeeded();
    } else {
      verdict_.failed(fmt::format("health command \"{}\": {}", first_line(check_.command),
                                  status.error().message()));
    }
    const auto now = verdict_.about_to_fail();
    if (now && !before) spdlog::warn("about to fail: {}", *now);
    if (!now && before) spdlog::info("health command succeeds again");
  }

  const HealthCheck check_;
  const Fd stop_{::eventfd(0, EFD_CLOEXEC)};
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  HealthVerdict verdict_;
  bool stopping_ = false;
  std::thread thread_;
};

HealthMonitor::HealthMonitor() = default;
HealthMonitor::~HealthMonitor() = default;

void HealthMonitor::set_checks(std::vector<HealthCheck> checks) {
  std::vector<std::unique_ptr<Runner>> gone;  // joined after the lock is released
  std::lock_guard lock(mutex_);
  for (auto runner = runners_.begin(); runner != runners_.end();) {
    if (std::ranges::find(checks, runner->first) == checks.end()) {
      gone.push_back(std::move(runner->second));
      runner = runners_.erase(runner);
    } else {
      ++runner;
    }
  }
  for (auto& check : checks)
    if (!check.command.empty() && !runners_.contains(check))
      runners_.emplace(check, std::make_unique<Runner>(check));
}

void HealthMonitor::announce(std::string cause) {
  std::lock_guard lock(mutex_);
  announced_ = std::move(cause);
}

std::optional<std::string> HealthMonitor::about_to_fail() const {
  std::lock_guard lock(mutex_);
  if (announced_) return announced_;
  for (const auto& [check, runner] : runners_)
    if (auto cause = runner->about_to_fail()) return cause;
  return std::nullopt;
}

}  // namespace baton::agent
