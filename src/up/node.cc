#include "up/node.h"

#include <poll.h>
#include <sys/mount.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

#include "base/log.h"
#include "up/child.h"
#include "up/network.h"
#include "up/respawn.h"
#include "up/tool.h"

namespace baton::up {
namespace {

Status finish_namespaces(const NodeOptions& options) {
  if (::setsid() < 0) return fail_errno("setsid");
  if (::sethostname(options.name.c_str(), options.name.size()) != 0) return fail_errno("hostname");
  if (::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0)
    return fail_errno("make mounts private");
  if (::mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr) != 0)
    return fail_errno("mount /proc");
  return configure_node_network(options.address);
}

// Blocks SIGCHLD and hands it out as a descriptor.
Result<Fd> child_signal() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGCHLD);
  ::sigprocmask(SIG_BLOCK, &set, nullptr);
  Fd fd(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!fd.valid()) return fail_errno("signalfd");
  return fd;
}

// Reaps everything that has ended; the agent's wait status if it was among them.
std::optional<int> reap_all(pid_t agent) {
  std::optional<int> found;
  int status = 0;
  for (pid_t pid; (pid = ::waitpid(-1, &status, WNOHANG)) > 0;)
    if (pid == agent) found = status;
  return found;
}

}  // namespace

Status run_node(const NodeOptions& options) {
  BATON_CHECK(start_under_parent(options.go_fd));
  BATON_CHECK(finish_namespaces(options));
  BATON_TRY(const Fd signals, child_signal());
  Respawn respawn;
  pid_t agent = -1;
  for (;;) {
    if (agent < 0 && respawn.due()) {
      auto started = sys::spawn(ourselves(options.agent));
      if (!started) return fail(std::move(started).error().context("start the agent"));
      agent = started->pid;
      respawn.started();
    }
    pollfd polled{signals.get(), POLLIN, 0};
    ::poll(&polled, 1, agent < 0 ? respawn.wait_ms() : -1);
    signalfd_siginfo info;
    while (::read(signals.get(), &info, sizeof info) > 0) {
    }
    if (const auto status = reap_all(agent)) {
      agent = -1;
      spdlog::warn("the agent ended ({}){}", describe_wait_status(*status),
                   options.no_restart ? "" : "; starting it again");
      if (options.no_restart)
        respawn.never();
      else
        respawn.ended();
    }
  }
}

}  // namespace baton::up
