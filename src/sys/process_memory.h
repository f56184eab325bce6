// Reading pages of another process.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "base/fd.h"
#include "base/result.h"

namespace baton::sys {

// Reads the memory that `pid` has at the time of each read (after an exec: the new program's).
// Pages without read permission are read as well. Used by one thread at a time.
class MemoryReader {
 public:
  struct Span {
    std::uint64_t start = 0;  // page-aligned, like the end
    std::uint64_t end = 0;
  };
  // Neighbouring pages that were read; the content is valid during the call only.
  using Sink = std::function<Status(std::uint64_t address, std::span<const char> content)>;

  explicit MemoryReader(pid_t pid) : pid_(pid) {}

  // Reads `spans` in order in pieces of at most `buffer`'s size. Pages that can't be read (unmapped
  // meanwhile, behind the end of their file, on broken memory) are appended to `unreadable`.
  // NotFound: the process ended.
  Status read(std::span<const Span> spans, std::span<char> buffer, const Sink& sink,
              std::vector<Span>& unreadable);

 private:
  struct Batch;
  Status read_batch(Batch& batch, std::span<char> buffer, std::vector<Span>& unreadable);
  bool read_forced(std::uint64_t address, char* page);

  pid_t pid_;
  Fd mem_;  // /proc/PID/mem, opened when it is needed
};

}  // namespace baton::sys
