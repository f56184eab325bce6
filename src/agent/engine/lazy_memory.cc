#include "agent/engine/lazy_memory.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>

#include "agent/priority.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "store/pack.h"
#include "sys/file.h"

namespace baton::agent {
namespace {

namespace fs = std::filesystem;
using sys::page_bytes;
using Outcome = sys::PageFaults::Outcome;

// What CRIU says on the socket (criu/uffd.c): a pid, and, unless it is negative (a zombie), a byte
// with the userfaultfd; at the end this word.
constexpr const char* kSocketName = "lazy-pages.socket";
constexpr std::uint32_t kRestoreFinished = 0x52535446;

constexpr int kBackgroundThreads = 2;
constexpr std::uint32_t kHotPages = 512;
constexpr int kChangingPollMs = 1;

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
  return copy_hot();
}

// What was written last is what the program touches first (its stacks are among it): a fault for
// each of these would cost more than to bring them now, while it stands still.
Status LazyMemory::copy_hot() {
  OpenPacks packs = packs_.another();
  std::vector<char> buffer(CopyPlan::kMostPages * page_bytes);
  const auto pages_each =
      std::max<std::uint64_t>(1, kHotPages / std::max<std::size_t>(1, families_.size()));
  for (auto& [pid, family] : families_) {
    CopyPlan plan(newest_pages(family->lazy.map, pages_each));
    std::uint64_t pages = 0;
    for (auto step = plan.next(); step && pages < pages_each; step = plan.next()) {
      BATON_CHECK(copy_step(*family, *step, packs, buffer));
      pages += step->pages;
    }
  }
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
}

// Threads that take the lock again and again, as the background does, leave it to nobody who sleeps
// for it: a fault would wait for seconds on a busy machine. So they are told to let it pass.
LazyMemory::AllLocked LazyMemory::lock_for_faults() {
  faults_first_ = true;
  std::unique_lock layout(layout_);
  std::unique_lock rest(mutex_);
  faults_first_ = false;
  changed_.notify_all();
  return {std::move(layout), std::move(rest)};
}

std::unique_lock<std::mutex> LazyMemory::lock_in_background() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return !faults_first_; });
  return lock;
}

// ------------------------------------------------------------------ on demand

void LazyMemory::serve() {
  ::pthread_setname_np(::pthread_self(), "page-faults");
  prefer_thread();  // the program stands still for it
  auto work = [&]() -> Status {
    for (;;) {
      BATON_CHECK(serve_turn());
      std::lock_guard lock(mutex_);
      if (stopping_ || failure_ || complete_) return {};
    }
  };
  if (Status status = work(); !status) give_up(std::move(status).error());
  packs_ = OpenPacks(fs::path());  // they may be all of the job's memory once more
}

Status LazyMemory::serve_turn() {
  bool waiting = false;
  auto each = [&](auto&& visit) -> Status {
    for (auto& [pid, family] : families_)
      for (std::size_t i = 0; i < family->spaces.size(); ++i)
        BATON_CHECK(visit(*family, *family->spaces[i]));
    for (auto& family : strangers_)
      for (std::size_t i = 0; i < family->spaces.size(); ++i)
        BATON_CHECK(visit(*family, *family->spaces[i]));
    return {};
  };
  {
    std::lock_guard lock(mutex_);
    BATON_CHECK(each([&](Family&, Space& space) -> Status {
      waiting |= !space.waiting.empty();
      return {};
    }));
  }
  epoll_event events[16];
  const int count =
      ::epoll_wait(epoll_.get(), events, std::size(events), waiting ? kChangingPollMs : -1);
  if (count < 0 && errno != EINTR) return fail_errno("epoll_wait");
  for (int i = 0; i < count; ++i) {
    if (events[i].data.fd == listener_.get()) BATON_CHECK(take_connection());
    if (connection_.valid() && events[i].data.fd == connection_.get()) BATON_CHECK(take_message());
  }
  const auto lock = lock_for_faults();
  if (complete_ || stopping_ || failure_) return {};
  return each([&](Family& family, Space& space) { return handle(family, space); });
}

Status LazyMemory::take_connection() {
  connection_ = Fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
  if (!connection_.valid()) return fail_errno("accept criu's connection");
  epoll_event event{.events = EPOLLIN, .data = {.fd = connection_.get()}};
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, connection_.get(), &event) != 0)
    return fail_errno("epoll_ctl");
  return {};
}

// CRIU writes each message at once, so the rest of one that has begun is awaited.
Status LazyMemory::take_message() {
  std::int32_t pid = 0;
  const ssize_t size = ::recv(connection_.get(), &pid, sizeof pid, MSG_WAITALL);
  if (size == 0) {
    connection_.reset();
    std::lock_guard lock(mutex_);
    if (handed_over_) return {};
    // It says itself why, to who started it.
    failure_ = Error(ErrorCode::Internal, "criu left before it handed over what makes pages come");
    changed_.notify_all();
    return {};
  }
  if (size != sizeof pid) return fail_errno("read what criu says of lazy pages");
  if (static_cast<std::uint32_t>(pid) == kRestoreFinished) {
    std::lock_guard lock(mutex_);
    handed_over_ = true;
    changed_.notify_all();
    return {};
  }
  if (pid < 0) return {};
  char byte = 0;
  iovec data{&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  if (::recvmsg(connection_.get(), &message, MSG_CMSG_CLOEXEC) != 1)
    return fail_errno("receive a userfaultfd from criu");
  const cmsghdr* header = CMSG_FIRSTHDR(&message);
  if (header == nullptr || header->cmsg_type != SCM_RIGHTS)
    return fail(ErrorCode::Internal, "criu sent no userfaultfd");
  int number = -1;
  std::memcpy(&number, CMSG_DATA(header), sizeof number);
  Fd fd(number);
  std::lock_guard lock(mutex_);
  const auto found = families_.find(pid);
  Family* family = nullptr;
  PendingPages pending;
  if (found != families_.end()) {
    family = found->second.get();
    for (const PageRun& run : family->lazy.pages.runs()) pending.add(run.start, run.end);
    bytes_ += pending.bytes();
  } else {
    family = strangers_.emplace_back(std::make_unique<Family>()).get();
  }
  return add_space(*family, std::move(fd), std::move(pending));
}

Status LazyMemory::add_space(Family& family, Fd fd, PendingPages pending) {
  BATON_CHECK_CTX(guard_->keep(fd.get()), "keep a userfaultfd");
  epoll_event event{.events = EPOLLIN, .data = {.fd = fd.get()}};
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd.get(), &event) != 0)
    return fail_errno("epoll_ctl");
  auto space = std::make_unique<Space>(std::move(fd));
  space->pending = std::move(pending);
  family.spaces.push_back(std::move(space));
  return {};
}

// All that the kernel has to tell of a space, in its order; under the lock.
Status LazyMemory::handle(Family& family, Space& space) {
  for (;;) {
    BATON_TRY(auto event, space.faults.next());
    if (!event) break;
    switch (event->kind) {
      case sys::PageEvent::Kind::Fault: space.waiting.push_back(event->start); break;
      case sys::PageEvent::Kind::Fork:
        BATON_CHECK(add_space(family, std::move(event->child), space.pending));
        break;
      case sys::PageEvent::Kind::Move:
        space.pending.move(event->start, event->end, event->to);
        break;
      case sys::PageEvent::Kind::Drop: space.pending.drop(event->start, event->end); break;
    }
  }
  for (std::uint64_t address : std::exchange(space.waiting, {}))
    BATON_CHECK(serve_fault(family, space, address));
  return {};
}

Status LazyMemory::serve_fault(Family& family, Space& space, std::uint64_t address) {
  ++faults_;
  if (const auto image = space.pending.image_of(address)) {
    const auto& runs = family.lazy.map.runs;
    auto run = std::ranges::upper_bound(runs, *image, {}, &store::MapRun::address);
    if (run == runs.begin() || *image >= (--run)->address + run->pages * page_bytes ||
        run->pack == store::kZeroPages)
      return fail(ErrorCode::Internal, "an awaited page that is in no pack");
    // The pack's whole extent is read anyway.
    const std::uint64_t wanted = run->first + (*image - run->address) / page_bytes;
    const std::uint64_t begin =
        std::max<std::uint64_t>(run->first, wanted - wanted % store::kExtentPages);
    const std::uint64_t end = std::min<std::uint64_t>(
        run->first + run->pages, wanted - wanted % store::kExtentPages + store::kExtentPages);
    char data[store::kExtentPages * page_bytes];
    BATON_TRY(store::PackReader * pack, packs_.get(family.lazy.map.packs[run->pack].hash));
    BATON_CHECK(pack->read(static_cast<std::uint32_t>(begin),
                           static_cast<std::uint32_t>(end - begin), data));
    const std::uint64_t from = run->address + (begin - run->first) * page_bytes;
    for (const auto& piece : space.pending.from_image(from, from + (end - begin) * page_bytes)) {
      std::vector<Settled> settled;
      const auto put = LazyMemory::put({&space, piece, data + (piece.image - from)}, settled);
      settle(settled);
      BATON_CHECK(put);
      if (*put == Put::Changing) {
        space.waiting.push_back(address);
        return {};
      }
    }
    space.faults.wake(address, page_bytes);
    return {};
  }
  BATON_TRY(const Outcome outcome, space.faults.fill_with_zeroes(address, page_bytes));
  if (outcome == Outcome::Changing) space.waiting.push_back(address);
  if (outcome == Outcome::Present) space.faults.wake(address, page_bytes);
  return {};
}

// ------------------------------------------------------------------ in the background

std::optional<std::pair<LazyMemory::Family*, CopyStep>> LazyMemory::next_step() {
  for (auto& [pid, family] : families_)
    while (const auto step = family->plan.next())
      if (wanted(*family, *step)) return std::pair(family.get(), *step);
  return std::nullopt;
}

bool LazyMemory::wanted(const Family& family, const CopyStep& step) const {
  return std::ranges::any_of(family.spaces, [&](const auto& space) {
    return std::ranges::any_of(step.pieces, [&](const CopyPiece& piece) {
      return space->pending.awaits(piece.address, piece.address + piece.pages * page_bytes);
    });
  });
}

// Once the job runs: it may be some ten milliseconds of work for each gigabyte.
void LazyMemory::plan() {
  {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return begun_ || stopping_ || failure_; });
  }
  std::map<pid_t, CopyPlan> plans;
  for (const auto& [pid, family] : families_) plans.emplace(pid, CopyPlan(family->lazy.map));
  std::lock_guard lock(mutex_);
  for (auto& [pid, plan] : plans) families_.at(pid)->plan = std::move(plan);
  planned_ = true;
  changed_.notify_all();
}

void LazyMemory::copy_in_background() {
  ::pthread_setname_np(::pthread_self(), "page-copy");
  std::vector<char> buffer(CopyPlan::kMostPages * page_bytes);
  auto work = [&]() -> Status {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return planned_ || stopping_ || failure_; });
    if (!planned_) return {};
    OpenPacks packs = packs_.another();
    for (;;) {
      if (stopping_ || failure_) return {};
      lock.unlock();
      BATON_CHECK(fault("restore.lazy.copy"));
      lock = lock_in_background();
      const auto next = next_step();
      if (!next) break;
      lock.unlock();
      BATON_CHECK(copy_step(*next->first, next->second, packs, buffer));
      lock = lock_in_background();
    }
    if (--copying_ == 0) complete();
    return {};
  };
  if (Status status = work(); !status) give_up(std::move(status).error());
}

Status LazyMemory::copy_step(Family& family, const CopyStep& step, OpenPacks& packs,
                             std::vector<char>& buffer) {
  BATON_TRY(store::PackReader * pack, packs.get(family.lazy.map.packs[step.pack].hash));
  BATON_TRY(const char* const content, pack->view(step.first, step.pages, buffer.data()));
  for (;;) {
    lock_in_background().unlock();  // whoever serves a fault goes first
    {
      std::shared_lock layout(layout_);
      std::unique_lock lock(mutex_);
      if (stopping_ || failure_) return {};
      const auto parts = parts_of(family, step, content);
      lock.unlock();
      std::vector<Settled> settled;
      bool changing = false;
      Status status;
      for (const Part& part : parts) {
        auto outcome = put(part, settled);
        if (!outcome) status = fail(std::move(outcome).error());
        if (!status) break;
        changing |= *outcome == Put::Changing;
      }
      lock.lock();
      settle(settled);
      BATON_CHECK(std::move(status));
      if (!changing) return {};
    }
    // The thread that serves will be told how at once.
    ::poll(nullptr, 0, kChangingPollMs);
  }
}

// What the kernel has to tell is left to the thread that serves: it alone knows what still waits.
std::vector<LazyMemory::Part> LazyMemory::parts_of(const Family& family, const CopyStep& step,
                                                   const char* data) const {
  std::vector<Part> parts;
  for (const auto& space : family.spaces)
    for (const CopyPiece& piece : step.pieces) {
      const char* content = data + (piece.first - step.first) * page_bytes;
      for (const auto& awaited :
           space->pending.from_image(piece.address, piece.address + piece.pages * page_bytes))
        parts.push_back({space.get(), awaited, content + (awaited.image - piece.address)});
    }
  return parts;
}

void LazyMemory::settle(const std::vector<Settled>& settled) {
  for (const auto& [space, start, end] : settled) space->pending.drop(start, end);
}

Result<LazyMemory::Put> LazyMemory::put(const Part& part, std::vector<Settled>& settled) {
  auto& [space, piece, data] = part;
  std::uint64_t at = piece.start;
  std::size_t most = piece.end - piece.start;
  std::uint64_t asked_again = 0;
  auto passed = [&](std::uint64_t bytes) {
    settled.push_back({space, at, at + bytes});
    at += bytes;
  };
  while (at < piece.end) {
    std::size_t done = 0;
    const std::size_t size = std::min<std::size_t>(most, piece.end - at);
    BATON_TRY(const Outcome outcome,
              space->faults.fill(at, data + (at - piece.start), size, &done));
    switch (outcome) {
      case Outcome::Filled:
      case Outcome::Partly: passed(done); break;
      case Outcome::Present:
        space->faults.wake(at, page_bytes);
        passed(page_bytes);
        break;
      case Outcome::Changing: return Put::Changing;
      case Outcome::Unmapped:
        // Pages of two mappings can't be filled at once. The same is said of a page whose mapping
        // moves at this instant; asked again, the kernel tells of that. What still can't be filled
        // is wanted no more.
        if (size > page_bytes) {
          most = page_bytes;
          break;
        }
        if (std::exchange(asked_again, at) != at) break;
        passed(page_bytes);
        break;
      case Outcome::Ended: settled.push_back({space, 0, UINT64_MAX}); return Put::Done;
    }
  }
  return Put::Done;
}

// Under the lock, and nobody puts pages any more. Closing the last descriptor takes all of this out
// of the job.
void LazyMemory::complete() {
  std::uint64_t missing = 0;
  for (auto& [pid, family] : families_)
    for (auto& space : family->spaces) missing += space->pending.bytes();
  if (missing != 0) {
    spdlog::error("{} bytes of a restored job's memory were left out; ending it", missing);
    failure_ = Error(ErrorCode::Internal, "some of its memory was left out");
    guard_->kill();
    changed_.notify_all();
    return;
  }
  for (auto& [pid, family] : families_) family->spaces.clear();
  strangers_.clear();
  if (Status released = guard_->release(); !released)
    spdlog::debug("after a lazy restore: {}", released.error().message());
  complete_ = true;
  const double ms = static_cast<double>(boot_time_ns() - begun_ns_) / 1e6;
  spdlog::info("memory of a restored job is complete: {} MiB in {:.1f} ms, {} pages on demand",
               bytes_ >> 20, ms, faults_);
  changed_.notify_all();
  const std::uint64_t one = 1;
  (void)!::write(wake_.get(), &one, sizeof one);
}

}  // namespace baton::agent
