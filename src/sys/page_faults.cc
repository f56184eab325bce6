#include "sys/page_faults.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "sys/pagemap.h"

namespace baton::sys {
namespace {

using Outcome = PageFaults::Outcome;

// `copied`: the kernel's count, or an error as a negative number.
Result<Outcome> outcome_of(const char* what, int returned, std::int64_t copied, std::size_t wanted,
                           std::size_t* done) {
  const int error = returned == 0 ? 0 : (copied < 0 ? static_cast<int>(-copied) : errno);
  if (returned == 0) {
    *done = wanted;
    return Outcome::Filled;
  }
  if (copied > 0) {
    *done = static_cast<std::size_t>(copied);
    return Outcome::Partly;
  }
  switch (error) {
    case EEXIST: return Outcome::Present;
    case EAGAIN: return Outcome::Changing;
    case ENOENT: return Outcome::Unmapped;
    case ESRCH: return Outcome::Ended;
    default: return fail_errno(what, error);
  }
}

}  // namespace

const std::string& page_faults_refusal() {
  static const std::string refusal = []() -> std::string {
    const Fd fd(static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK)));
    if (!fd.valid()) return fmt::format("userfaultfd: {}", std::strerror(errno));
    uffdio_api api{};
    api.api = UFFD_API;
    api.features = UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_REMOVE |
                   UFFD_FEATURE_EVENT_UNMAP;
    if (::ioctl(fd.get(), UFFDIO_API, &api) != 0)
      return fmt::format("userfaultfd with events: {}", std::strerror(errno));
    return "";
  }();
  return refusal;
}

Result<std::optional<PageEvent>> PageFaults::next() {
  uffd_msg message{};
  const ssize_t size = ::read(fd_.get(), &message, sizeof message);
  if (size < 0 && (errno == EAGAIN || errno == EINTR)) return std::nullopt;
  if (size != sizeof message) return fail_errno("read the events of a userfaultfd");
  PageEvent event;
  switch (message.event) {
    case UFFD_EVENT_PAGEFAULT:
      event.start = message.arg.pagefault.address & ~(page_bytes - 1);
      return event;
    case UFFD_EVENT_FORK:
      event.kind = PageEvent::Kind::Fork;
      event.child = Fd(static_cast<int>(message.arg.fork.ufd));
      return event;
    case UFFD_EVENT_REMAP:
      event.kind = PageEvent::Kind::Move;
      event.start = message.arg.remap.from;
      event.end = message.arg.remap.from + message.arg.remap.len;
      event.to = message.arg.remap.to;
      return event;
    case UFFD_EVENT_REMOVE:
    case UFFD_EVENT_UNMAP:
      event.kind = PageEvent::Kind::Drop;
      event.start = message.arg.remove.start;
      event.end = message.arg.remove.end;
      return event;
    default:
      return fail(ErrorCode::Internal,
                  fmt::format("a userfaultfd tells of an unknown event {}", message.event));
  }
}

Result<Outcome> PageFaults::fill(std::uint64_t address, const char* data, std::size_t bytes,
                                 std::size_t* done) {
  *done = 0;
  uffdio_copy copy{};
  copy.dst = address;
  copy.src = reinterpret_cast<std::uint64_t>(data);
  copy.len = bytes;
  const int returned = ::ioctl(fd_.get(), UFFDIO_COPY, &copy);
  return outcome_of("UFFDIO_COPY", returned, copy.copy, bytes, done);
}

Result<Outcome> PageFaults::fill_with_zeroes(std::uint64_t address, std::size_t bytes) {
  uffdio_zeropage zero{};
  zero.range = {address, bytes};
  std::size_t done = 0;
  const int returned = ::ioctl(fd_.get(), UFFDIO_ZEROPAGE, &zero);
  return outcome_of("UFFDIO_ZEROPAGE", returned, zero.zeropage, bytes, &done);
}

void PageFaults::wake(std::uint64_t address, std::size_t bytes) {
  uffdio_range range{address, bytes};
  (void)::ioctl(fd_.get(), UFFDIO_WAKE, &range);
}

}  // namespace baton::sys
