// What the kernel and CRIU have to tell of a restored job's memory: pages that are touched, and
// what the program does to its mappings meanwhile.
#include <poll.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>

#include "agent/engine/lazy_memory.h"
#include "base/log.h"
#include "store/pack.h"
#include "sys/priority.h"

namespace baton::agent {
namespace {

using sys::page_bytes;
using Outcome = sys::PageFaults::Outcome;

// What CRIU says on the socket (criu/uffd.c): a pid, and, unless it is negative (a zombie), a byte
// with the userfaultfd; at the end this word.
constexpr std::uint32_t kRestoreFinished = 0x52535446;

}  // namespace

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

void LazyMemory::serve() {
  ::pthread_setname_np(::pthread_self(), "page-faults");
  sys::prefer_thread();  // the program stands still for it
  auto work = [&]() -> Status {
    for (;;) {
      BATON_CHECK(serve_turn());
      std::lock_guard lock(mutex_);
      if (stopping_ || failure_ || complete_) return {};
    }
  };
  if (Status status = work(); !status) give_up(std::move(status).error());
  std::lock_guard lock(mutex_);
  packs_ = OpenPacks(std::filesystem::path());  // they may be all of the job's memory once more
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

}  // namespace baton::agent
