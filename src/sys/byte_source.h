// Bytes that are read at any offset, wherever and however they lie: a file, or one that is stored
// encrypted.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>

#include "base/fd.h"
#include "base/result.h"

namespace baton::sys {

// Thread-safe.
class ByteSource {
 public:
  virtual ~ByteSource() = default;

  virtual std::uint64_t size() const = 0;
  // Exactly `size` bytes into `data`; Damaged at an early end. After an error nothing in `data` may
  // be used.
  virtual Status read(void* data, std::size_t size, std::uint64_t offset) const = 0;
  // For errors.
  virtual std::string name() const = 0;
};

// NotFound: there is none.
using OpenSource = std::function<Result<std::unique_ptr<ByteSource>>(const std::string& name)>;

// A regular file as it lies; a link is not followed (an error), nor is anything but a file read
// (Damaged).
Result<std::unique_ptr<ByteSource>> open_source(const std::filesystem::path& path);
// The same of an open file; `path` is for errors.
Result<std::unique_ptr<ByteSource>> open_source(Fd file, const std::filesystem::path& path);
// Those in a folder.
OpenSource sources_in(std::filesystem::path folder);
// The same ones, whose names all begin with `prefix` there.
OpenSource sources_below(OpenSource sources, std::string prefix);

// Everything. InvalidArgument: more than max_bytes.
Result<std::string> read_source(const ByteSource& source, std::uint64_t max_bytes);

}  // namespace baton::sys
