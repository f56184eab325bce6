#include "sys/process_memory.h"

#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>

#include "sys/file.h"
#include "sys/pagemap.h"

namespace baton::sys {
namespace {

constexpr std::size_t pieces_max = 512;  // below the kernel's IOV_MAX

}  // namespace

// Pieces that go into one buffer, side by side.
struct MemoryReader::Batch {
  std::vector<iovec> pieces;
  std::size_t bytes = 0;
};

bool MemoryReader::read_forced(std::uint64_t address, char* page) {
  if (!mem_.valid()) {
    auto file = open_file(fmt::format("/proc/{}/mem", pid_), O_RDONLY);
    if (!file) return false;
    mem_ = std::move(*file);
  }
  return ::pread(mem_.get(), page, page_bytes, static_cast<off_t>(address)) ==
         static_cast<ssize_t>(page_bytes);
}

// Fills the buffer; pieces in the batch that turned out to be unreadable get a length of 0 or are
// split, so that pieces and buffer agree afterwards.
Status MemoryReader::read_batch(Batch& batch, std::span<char> buffer,
                                std::vector<Span>& unreadable) {
  std::vector<iovec> done;
  std::size_t filled = 0;
  auto keep = [&](char* start, std::size_t size) {
    if (size == 0) return;
    if (!done.empty() && static_cast<char*>(done.back().iov_base) + done.back().iov_len == start)
      done.back().iov_len += size;
    else
      done.push_back({start, size});
    filled += size;
  };
  std::vector<iovec> rest = std::move(batch.pieces);
  while (!rest.empty()) {
    std::size_t wanted = 0;
    for (const iovec& piece : rest) wanted += piece.iov_len;
    iovec local{buffer.data() + filled, wanted};
    ssize_t got = ::process_vm_readv(pid_, &local, 1, rest.data(), rest.size(), 0);
    if (got < 0 && errno == ESRCH) return fail(ErrorCode::NotFound, "the process ended");
    if (got < 0 && errno != EFAULT) return fail_errno("read a process's memory");
    std::size_t left = got > 0 ? static_cast<std::size_t>(got) : 0;
    auto piece = rest.begin();
    for (; piece != rest.end() && left >= piece->iov_len; ++piece) {
      left -= piece->iov_len;
      keep(static_cast<char*>(piece->iov_base), piece->iov_len);
    }
    if (piece == rest.end()) break;
    // The page at which it stopped has no read permission, or is not there at all.
    left -= left % page_bytes;
    char* at = static_cast<char*>(piece->iov_base);
    keep(at, left);
    at += left;
    if (read_forced(reinterpret_cast<std::uint64_t>(at), buffer.data() + filled)) {
      keep(at, page_bytes);
    } else {
      auto address = reinterpret_cast<std::uint64_t>(at);
      unreadable.push_back({address, address + page_bytes});
    }
    piece->iov_base = at + page_bytes;
    piece->iov_len -= left + page_bytes;
    if (piece->iov_len == 0) ++piece;
    rest.erase(rest.begin(), piece);
  }
  batch.pieces = std::move(done);
  batch.bytes = filled;
  return {};
}

Status MemoryReader::read(std::span<const Span> spans, std::span<char> buffer, const Sink& sink,
                          std::vector<Span>& unreadable) {
  Batch batch;
  auto flush = [&]() -> Status {
    if (batch.pieces.empty()) return {};
    BATON_CHECK(read_batch(batch, buffer, unreadable));
    std::size_t at = 0;
    for (const iovec& piece : batch.pieces) {
      BATON_CHECK(sink(reinterpret_cast<std::uint64_t>(piece.iov_base),
                       std::span<const char>(buffer.data() + at, piece.iov_len)));
      at += piece.iov_len;
    }
    batch = {};
    return {};
  };
  for (const Span& span : spans) {
    for (std::uint64_t at = span.start; at < span.end;) {
      std::uint64_t size = std::min<std::uint64_t>(span.end - at, buffer.size() - batch.bytes);
      batch.pieces.push_back({reinterpret_cast<void*>(at), size});
      batch.bytes += size;
      at += size;
      if (batch.bytes == buffer.size() || batch.pieces.size() == pieces_max) BATON_CHECK(flush());
    }
  }
  return flush();
}

}  // namespace baton::sys
