#include "agent/output_shipper.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/stat.h>

#include <algorithm>

#include "base/fault.h"
#include "base/log.h"
#include "sys/file.h"

namespace baton::agent {
namespace {

constexpr std::uint64_t kBatchBytes = 1 << 20;
// A line at a time costs a call each; what a job prints within this time goes together.
constexpr std::chrono::milliseconds kGather{20};
constexpr std::uint64_t kPunchBytes = 1 << 20;
constexpr std::chrono::milliseconds kFirstRetry{100};
constexpr std::chrono::milliseconds kLastRetry{2'000};

void drain(int fd) {
  char buffer[4096];
  while (::read(fd, buffer, sizeof(buffer)) > 0) {
  }
}

}  // namespace

OutputShipper::OutputShipper(ControllerLink& controller, JobId job, Generation generation,
                             std::filesystem::path file)
    : controller_(controller), job_(job), generation_(generation), path_(std::move(file)) {}

OutputShipper::~OutputShipper() { stop(); }

Status OutputShipper::start() {
  BATON_TRY(file_, sys::open_file(path_, O_RDWR));
  inotify_ = Fd(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  if (!inotify_.valid()) return fail_errno("inotify_init1");
  if (::inotify_add_watch(inotify_.get(), path_.c_str(), IN_MODIFY) < 0)
    return fail_errno(fmt::format("watch {}", path_.string()));
  wake_ = Fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake_.valid()) return fail_errno("eventfd");
  thread_ = std::thread([this] { loop(); });
  return {};
}

void OutputShipper::stop() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  cancel_.cancel();
  changed_.notify_all();
  if (wake_.valid()) wake();
  if (thread_.joinable()) thread_.join();
}

void OutputShipper::wake() {
  const std::uint64_t one = 1;
  (void)!::write(wake_.get(), &one, sizeof(one));
}

Result<std::uint64_t> OutputShipper::file_size() const {
  struct stat info {};
  if (::fstat(file_.get(), &info) != 0) return fail_errno(path_.string());
  return static_cast<std::uint64_t>(info.st_size);
}

void OutputShipper::set_safe(std::uint64_t offset) {
  {
    std::lock_guard lock(mutex_);
    safe_ = std::max(safe_, offset);
  }
  if (wake_.valid()) wake();
}

Status OutputShipper::flush_all(CancelToken& cancel, std::chrono::milliseconds limit) {
  BATON_TRY(std::uint64_t size, file_size());
  return flush_to(size, cancel, limit);
}

Status OutputShipper::flush_to(std::uint64_t offset, CancelToken& cancel,
                               std::chrono::milliseconds limit) {
  const auto until = std::chrono::steady_clock::now() + limit;
  std::unique_lock lock(mutex_);
  wanted_ = std::max(wanted_, offset);
  wake();
  for (;;) {
    if (refused_) return fail(ErrorCode::StaleGeneration, "ship output: stale generation");
    if (known_ && shipped_ >= offset) return {};
    if (stopping_ || cancel.cancelled())
      return fail(ErrorCode::Cancelled, "ship output: cancelled");
    if (std::chrono::steady_clock::now() >= until)
      return fail(ErrorCode::TimedOut, "ship output: not done in time");
    // `cancel` has its own condition; a look at it now and then is enough while the controller is
    // away, which is the only time when this takes long.
    changed_.wait_for(lock, std::chrono::milliseconds(50));
  }
}

// One batch. Bytes beyond what the controller asks for next are never sent.
Status OutputShipper::ship_some(std::uint64_t size) {
  std::uint64_t from = 0;
  bool known = false;
  {
    std::lock_guard lock(mutex_);
    from = shipped_;
    known = known_;
  }
  std::string data;
  if (known) {
    data.resize(std::min(size - from, kBatchBytes));
    BATON_CHECK_CTX(sys::pread_all(file_.get(), data.data(), data.size(), from), path_.string());
    BATON_CHECK(fault("agent.output.before_ship"));
  }
  BATON_TRY(std::uint64_t next,
            controller_.ship_output(job_, generation_, from, std::move(data), cancel_));
  if (next < punched_)
    return fail(ErrorCode::Damaged,
                fmt::format("the controller asks for output from {} on, but what is before {} was "
                            "released when a checkpoint covered it",
                            next, punched_));
  std::lock_guard lock(mutex_);
  shipped_ = next;
  known_ = true;
  changed_.notify_all();
  return {};
}

void OutputShipper::loop() {
  auto retry = kFirstRetry;
  for (;;) {
    std::uint64_t shipped = 0;
    bool known = false;
    {
      std::lock_guard lock(mutex_);
      if (stopping_) return;
      shipped = shipped_;
      known = known_;
    }
    const auto size = file_size();
    if (!size) {
      spdlog::error("job {}: output: {}", job_, size.error().message());
      return;
    }
    if (known && *size <= shipped) {
      punch();
      wait_for_change(*size);
      continue;
    }
    const Status status = ship_some(*size);
    if (status) {
      retry = kFirstRetry;
      continue;
    }
    if (status.error().code() == ErrorCode::StaleGeneration ||
        status.error().code() == ErrorCode::Damaged) {
      spdlog::warn("job {} generation {}: output: {}", job_, generation_, status.error().message());
      std::lock_guard lock(mutex_);
      refused_ = true;
      changed_.notify_all();
      return;
    }
    if (retry == kFirstRetry && status.error().code() != ErrorCode::Cancelled)
      spdlog::warn("job {}: output waits: {}", job_, status.error().message());
    if (cancel_.wait_for(retry)) return;
    retry = std::min(retry * 2, kLastRetry);
  }
}

void OutputShipper::wait_for_change(std::uint64_t size) {
  pollfd fds[] = {{inotify_.get(), POLLIN, 0}, {wake_.get(), POLLIN, 0}};
  // The file may have grown since it was looked at, before the events were drained.
  const auto now = file_size();
  if (now && *now == size) ::poll(fds, 2, -1);
  bool hurried = false;
  {
    std::lock_guard lock(mutex_);
    hurried = stopping_ || wanted_ > shipped_;
  }
  drain(wake_.get());
  if (!hurried) {
    pollfd hurry{wake_.get(), POLLIN, 0};
    ::poll(&hurry, 1, static_cast<int>(kGather.count()));
    drain(wake_.get());
  }
  drain(inotify_.get());
}

void OutputShipper::punch() {
  std::uint64_t until = 0;
  {
    std::lock_guard lock(mutex_);
    until = std::min(safe_, shipped_);
  }
  until -= until % 4096;
  if (until < punched_ + kPunchBytes) return;
  if (::fallocate(file_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
                  static_cast<off_t>(until)) == 0)
    punched_ = until;
}

}  // namespace baton::agent
