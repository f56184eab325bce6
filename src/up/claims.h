// What could outlive a killed `up`: its control group and its temporary directory. Both are held
// by a lock that the kernel drops with the process, so that the next `up` knows which are orphans.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "base/fd.h"
#include "base/result.h"
#include "sys/cgroup.h"

namespace baton::up {

// Held while orphans are looked for and claims are made, so that two `up` that start at once do not
// take each other's half-made claims for orphans. Waits for its turn.
Result<Fd> take_turn();

// Removes what earlier ones left behind. Never touches what a living `up` holds.
void remove_orphans();

// A directory that no other `up` uses. Temporary ones are removed with all content at the end.
class DataDirectory {
 public:
  // An empty path makes a temporary one. FailedPrecondition: another `up` has it.
  static Result<DataDirectory> claim(const std::filesystem::path& path);
  DataDirectory(DataDirectory&&) = default;
  DataDirectory& operator=(DataDirectory&&) = delete;
  ~DataDirectory();

  const std::filesystem::path& path() const { return path_; }
  bool temporary() const { return temporary_; }

 private:
  DataDirectory() = default;

  std::filesystem::path path_;
  bool temporary_ = false;
  Fd lock_;
};

// The cluster's group baton-up-<random>; removed at the end, with whatever processes are left in
// it.
class ClusterGroup {
 public:
  // Unfit: this machine lets us make none.
  static Result<ClusterGroup> create();
  ClusterGroup(ClusterGroup&&) = default;
  ClusterGroup& operator=(ClusterGroup&&) = delete;
  ~ClusterGroup();

  // "baton-up-3fa91c07", the same below each hierarchy's mount point.
  const std::filesystem::path& path() const { return path_; }

 private:
  ClusterGroup() = default;

  std::filesystem::path path_;
  Fd lock_;
};

// /run/baton/baton.sock, by which commands find the controller without being told. Taken if no
// living controller has it; removed at the end.
class DefaultSocket {
 public:
  static Result<DefaultSocket> take(const std::filesystem::path& socket);
  DefaultSocket(DefaultSocket&& other) noexcept : target_(std::move(other.target_)) {
    other.target_.clear();
  }
  DefaultSocket& operator=(DefaultSocket&&) = delete;
  ~DefaultSocket();

 private:
  DefaultSocket() = default;

  std::filesystem::path target_;
};

}  // namespace baton::up
