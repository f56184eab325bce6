// A userfaultfd used for one thing: asynchronous write protection (Linux 6.7). Writes to protected
// pages are resolved by the kernel itself and remembered; PAGEMAP_SCAN reports them.
#pragma once

#include <cstdint>
#include <string>

#include "base/fd.h"
#include "base/result.h"

namespace baton::sys {

// Watches the address space in which the descriptor was made; closing it ends all registrations
// and takes off all protection.
class Userfaultfd {
 public:
  // A userfaultfd of the calling process itself.
  static Result<Userfaultfd> create();
  // Takes over a fresh descriptor made in another process. Unfit: the kernel lacks the features.
  static Result<Userfaultfd> adopt(Fd fd);

  enum class Registered { Yes, NotPossible, Taken, SpaceGone };
  // Registers whole mappings in [start, end), which must be covered by them at least in part.
  // Again is fine. NotPossible: the kernel does not track this kind of mapping. Taken: another
  // userfaultfd has it as yet. SpaceGone: the address space has ended (exit or exec).
  Result<Registered> track(std::uint64_t start, std::uint64_t end) const;

  // Takes off all protection in [start, end): the pages count as written. The kernel can leave
  // marks of it behind in a mapping that loses its registration, which then come back with the next
  // one.
  Status unprotect(std::uint64_t start, std::uint64_t end) const;

  int get() const { return fd_.get(); }

 private:
  explicit Userfaultfd(Fd fd) : fd_(std::move(fd)) {}
  Fd fd_;
};

// Flags with which a userfaultfd for tracking is made.
int userfaultfd_flags();

struct TrackingAbility {
  bool available = false;
  std::string reason;        // why not, for a person
  bool guard_pages = false;  // PAGEMAP_SCAN can tell guard pages from swapped ones
};

// Tries on a few pages of the calling process what tracking needs from the kernel: the features,
// exact dirty sets, and that a page which is moved by mremap does not keep a stale protection.
TrackingAbility probe_tracking();

}  // namespace baton::sys
