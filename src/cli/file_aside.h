// A file that appears under its name only when it is whole.
#pragma once

#include <string>
#include <string_view>

#include "base/fd.h"
#include "base/result.h"

namespace baton::cli {

// Readable by its owner alone. Without publish() nothing is left of it.
class FileAside {
 public:
  static Result<FileAside> create(const std::string& path);
  FileAside(FileAside&& other) noexcept;
  FileAside& operator=(FileAside&&) = delete;
  ~FileAside();

  Status write(std::string_view data);
  // Makes it durable and gives it its name; replaces what has that name.
  Status publish();

 private:
  FileAside(std::string path, std::string aside, Fd fd);

  std::string path_;
  std::string aside_;  // empty: nothing to remove
  Fd fd_;
};

}  // namespace baton::cli
