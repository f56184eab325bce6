// A directory that is removed with its content.
#pragma once

#include <fmt/format.h>

#include <cstdlib>
#include <filesystem>
#include <string>
#include <utility>

#include "base/result.h"
#include "sys/file.h"

namespace baton::bench {

class ScratchDirectory {
 public:
  static Result<ScratchDirectory> make(const std::filesystem::path& parent) {
    std::string path = parent / "baton-bench-XXXXXX";
    if (!::mkdtemp(path.data()))
      return fail_errno(fmt::format("make a directory in {}", parent.string()));
    return ScratchDirectory(path);
  }
  ScratchDirectory(ScratchDirectory&& other) noexcept : path_(std::exchange(other.path_, {})) {}
  ScratchDirectory& operator=(ScratchDirectory&&) = delete;
  ~ScratchDirectory() {
    if (!path_.empty()) (void)sys::remove_tree(path_);
  }
  const std::filesystem::path& path() const { return path_; }

 private:
  explicit ScratchDirectory(std::filesystem::path path) : path_(std::move(path)) {}
  std::filesystem::path path_;
};

}  // namespace baton::bench
