#include "agent/engine/lazy_memory.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "sys/file.h"

namespace baton::agent {
namespace {

namespace fs = std::filesystem;

// Where CRIU connects to (criu/uffd.c).
constexpr const char* kSocketName = "lazy-pages.socket";

constexpr int kBackgroundThreads = 2;

Fd make_epoll() { return Fd(::epoll_create1(EPOLL_CLOEXEC)); }

}  // namespace

Result<std::unique_ptr<LazyMemory>> LazyMemory::start(Sandbox& sandbox, OpenPacks packs,
                                                      std::map<pid_t, LazyPages> pages) {
  BATON_TRY(auto guard, sandbox.guard());
  std::unique_ptr<LazyMemory> memory(
      new LazyMemory(std::move(guard), std::move(packs), std::move(pages)));
  BATON_CHECK(memory->listen(sandbox.images_directory()));
  // The folder may be gone by the time they are read.
  for (const auto& [pid, family] : memory->families_)
    BATON_CHECK(memory->packs_.hold_all(family->lazy.map));
  memory->copying_ = kBackgroundThreads;
  memory->threads_.emplace_back([self = memory.get()] { self->serve(); });
  for (int i = 0; i < kBackgroundThreads; ++i)
    memory->threads_.emplace_back([self = memory.get(), i] {
      if (i == 0) self->plan();
      self->copy_in_background();
    });
  return memory;
}

LazyMemory::LazyMemory(std::unique_ptr<SandboxGuard> guard, OpenPacks packs,
                       std::map<pid_t, LazyPages> pages)
    : wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      epoll_(make_epoll()),
      guard_(std::move(guard)),
      packs_(std::move(packs)) {
  for (auto& [pid, lazy] : pages) {
    auto family = std::make_unique<Family>();
    family->lazy = std::move(lazy);
    families_[pid] = std::move(family);
  }
}

LazyMemory::~LazyMemory() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  const std::uint64_t one = 1;
  (void)!::write(wake_.get(), &one, sizeof one);
  for (auto& thread : threads_) thread.join();
}

Status LazyMemory::listen(const fs::path& images) {
  if (!wake_.valid() || !epoll_.valid()) return fail_errno("serve pages");
  // By way of the folder's descriptor: a path in a socket's name is short.
  BATON_TRY(Fd folder, sys::open_file(images, O_PATH | O_DIRECTORY));
  (void)::unlinkat(folder.get(), kSocketName, 0);
  listener_ = Fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string path = fmt::format("/proc/self/fd/{}/{}", folder.get(), kSocketName);
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  if (!listener_.valid() ||
      ::bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 ||
      ::listen(listener_.get(), 1) != 0)
    return fail_errno(fmt::format("listen on {}", (images / kSocketName).string()));
  for (const Fd* fd : {&wake_, &listener_}) {
    epoll_event event{.events = EPOLLIN, .data = {.fd = fd->get()}};
    if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd->get(), &event) != 0)
      return fail_errno("epoll_ctl");
  }
  return {};
}

Status LazyMemory::ready() {
  BATON_CHECK(await_hand_over());
  BATON_CHECK(copy_hot());
  std::lock_guard lock(mutex_);
  if (failure_) return fail(*failure_);
  return {};
}

Status LazyMemory::await_hand_over() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return failure_ || handed_over_; });
  if (failure_) return fail(*failure_);
  for (const auto& [pid, family] : families_)
    if (family->spaces.empty())
      return fail(ErrorCode::Damaged,
                  fmt::format("criu restored no process {}, whose memory is here", pid));
  return {};
}

void LazyMemory::begin() {
  {
    std::lock_guard lock(mutex_);
    begun_ = true;
    begun_ns_ = boot_time_ns();
  }
  changed_.notify_all();
}

Status LazyMemory::finish() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return failure_ || complete_; });
  if (failure_) return fail(*failure_);
  return {};
}

Status LazyMemory::state() const {
  std::lock_guard lock(mutex_);
  if (failure_ && failure_->code() == ErrorCode::Damaged) return fail(*failure_);
  return {};
}

void LazyMemory::give_up(Error error) {
  std::lock_guard lock(mutex_);
  if (failure_ || complete_ || stopping_) return;
  spdlog::error("memory of a restored job can't be completed, ending it: {}", error.message());
  failure_ = std::move(error);
  guard_->kill();
  changed_.notify_all();
  const std::uint64_t one = 1;
  (void)!::write(wake_.get(), &one, sizeof one);
}

}  // namespace baton::agent
