// Puts the files of a checkpoint into the messages of a stream, as many small ones into each as
// fit: a message of a few bytes takes as long as one of a hundred kilobytes.
#pragma once

#include <cstddef>
#include <functional>
#include <utility>

#include "base/result.h"
#include "wire/baton.pb.h"
#include "wire/channel.h"

namespace baton::wire {

// `Message`: UploadPart or DownloadPart. Thread-compatible.
template <typename Message>
class FileParts {
 public:
  // `write` sends a message. After an error of it the object is good for nothing.
  explicit FileParts(std::function<Status(const Message&)> write) : write_(std::move(write)) {}

  // The next part, which will have so many bytes of data (kChunkBytes at most). To be filled before
  // the next call.
  Result<v1::FilePart*> next(std::size_t bytes) {
    constexpr std::size_t kOverhead = 256;  // a path, a hash
    if (bytes_ + bytes > kChunkBytes) BATON_CHECK(flush());
    bytes_ += bytes + kOverhead;
    return message_.mutable_files()->add_parts();
  }
  // Sends what was gathered; to be called at the end.
  Status flush() {
    if (bytes_ == 0) return {};
    BATON_CHECK(write_(message_));
    message_.Clear();
    bytes_ = 0;
    return {};
  }

 private:
  const std::function<Status(const Message&)> write_;
  Message message_;
  std::size_t bytes_ = 0;
};

}  // namespace baton::wire
