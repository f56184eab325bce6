#include "agent/engine/when_stopped.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "sys/file.h"
#include "sys/priority.h"

namespace baton::agent {

Result<std::unique_ptr<WhenStopped>> WhenStopped::create(const std::filesystem::path& images,
                                                         std::function<void()> work) {
  const auto path = images / "stopped";
  if (::mkfifo(path.c_str(), 0600) != 0) return fail_errno(fmt::format("mkfifo {}", path.string()));
  BATON_TRY(Fd fifo, sys::open_file(path, O_RDONLY | O_NONBLOCK));
  Fd cancel(::eventfd(0, EFD_CLOEXEC));
  if (!cancel.valid()) return fail_errno("eventfd");
  return std::unique_ptr<WhenStopped>(
      new WhenStopped(std::move(fifo), std::move(cancel), std::move(work)));
}

WhenStopped::WhenStopped(Fd fifo, Fd cancel, std::function<void()> work)
    : fifo_(std::move(fifo)), cancel_(std::move(cancel)), work_(std::move(work)) {
  thread_ = std::thread([this] { wait_and_work(); });
}

void WhenStopped::wait_and_work() {
  pollfd events[] = {{fifo_.get(), POLLIN, 0}, {cancel_.get(), POLLIN, 0}};
  while (::poll(events, 2, -1) < 0 && errno == EINTR) {
  }
  char byte;
  if (::read(fifo_.get(), &byte, 1) != 1) return;
  work_();
  done_ = true;
}

bool WhenStopped::finish(bool hasty) {
  if (thread_.joinable()) {
    if (hasty) sys::raise_to_hasty(thread_.native_handle());
    const std::uint64_t one = 1;
    (void)!::write(cancel_.get(), &one, sizeof one);
    thread_.join();
  }
  return done_;
}

}  // namespace baton::agent
