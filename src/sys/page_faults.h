// Serves the missing pages of another process through a userfaultfd that was made in it with
// UFFD_EVENT_FORK, _REMAP, _REMOVE and _UNMAP (ioctl_userfaultfd(2), userfaultfd(2)).
//
// An event must be read and acted upon before pages are put where it says that the layout has
// changed: by one thread, while none puts any. Several may put pages at the same time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "base/fd.h"
#include "base/result.h"

namespace baton::sys {

struct PageEvent {
  enum class Kind { Fault, Fork, Move, Drop } kind = Kind::Fault;
  std::uint64_t start = 0;  // of a fault: the page
  std::uint64_t end = 0;    // of what was moved or dropped
  std::uint64_t to = 0;     // of a move
  Fd child;                 // of a fork: the child's
};

class PageFaults {
 public:
  explicit PageFaults(Fd fd) : fd_(std::move(fd)) {}

  int fd() const { return fd_.get(); }
  // Absent: there is none now.
  Result<std::optional<PageEvent>> next();

  enum class Outcome {
    Filled,    // all of it
    Partly,    // `done` bytes of it, and then something was in the way: ask again from there
    Present,   // there is a page already, at the first address
    Changing,  // the layout is changing: read the events first
    Unmapped,  // nothing (registered) is mapped there
    Ended,     // the address space is gone
  };
  // Whole pages. Wakes who waits for them.
  Result<Outcome> fill(std::uint64_t address, const char* data, std::size_t bytes,
                       std::size_t* done);
  Result<Outcome> fill_with_zeroes(std::uint64_t address, std::size_t bytes);
  void wake(std::uint64_t address, std::size_t bytes);

 private:
  Fd fd_;
};

// Why this process can't make a userfaultfd that tells all of that; empty: it can. Asked once.
const std::string& page_faults_refusal();

}  // namespace baton::sys
