// Room set aside on the disk of the state database, given back when the disk is full, so that what
// must be written down (a lost node, a recovery) still can be. One thread at a time.
#pragma once

#include <cstdint>
#include <filesystem>

#include "base/result.h"

namespace baton::control {

class Ballast {
 public:
  static constexpr std::uint64_t kBytes = 4 << 20;

  // In `folder`, as far as there is room. A small disk gets a small ballast.
  explicit Ballast(std::filesystem::path folder);

  // True if there was something to drop.
  bool drop();
  // Sets the room aside again once there is plenty.
  void restore();
  // Whether so many bytes more can be written down, and some that are always needed. If not, no
  // user's wish is taken on.
  bool has_room(std::uint64_t bytes) const;

 private:
  std::uint64_t free_bytes() const;

  const std::filesystem::path folder_;
  const std::filesystem::path file_;
  std::uint64_t bytes_ = 0;
  bool held_ = false;
};

}  // namespace baton::control
