// Control groups: one named group across all hierarchies of this machine, be they the controllers
// of version 1, the unified tree of version 2, or both.
//
// Paths are below each hierarchy's mount point, so that inside a container they are below the
// container's own groups. In version 2 processes may be in leaves only: give a parent that holds
// none itself.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "sys/process.h"

namespace baton::sys {

struct CgroupHierarchy {
  bool unified = false;  // version 2
  std::filesystem::path mount;
  std::vector<std::string> controllers;  // that it can hand out
  std::filesystem::path own;  // group of the calling process, below `mount`; "/" if not below it
};

// Those that Baton uses: unified, cpu, cpuacct, memory, freezer, pids.
Result<std::vector<CgroupHierarchy>> cgroup_hierarchies();

// A handle: copies name the same group, and its end removes nothing. Thread-safe.
class Cgroup {
 public:
  // Makes the group, and parents that are missing, in each hierarchy that lets us. Unfit: in none.
  // AlreadyExists: the group itself exists.
  static Result<Cgroup> create(const std::filesystem::path& path);
  // NotFound: in no hierarchy.
  static Result<Cgroup> open(const std::filesystem::path& path);
  // The calling process's own groups, whose paths may differ between hierarchies.
  static Result<Cgroup> own();

  // As given to create() or open(); "" for own().
  const std::filesystem::path& path() const { return path_; }

  Status add(pid_t pid) const;
  // A process of one thread that writes "0" to each of these enters the group, wherever that limits
  // or counts anything. For spawn(). Without the version 1 hierarchies of the controllers left out.
  Result<std::vector<Fd>> open_procs_files(std::span<const std::string_view> left_out = {}) const;
  // That of one version 1 controller. NotFound: it is not mounted, or not with this group.
  Result<Fd> open_procs_file(std::string_view controller) const;
  // All processes in it and in groups below, in no order. Pids of this pid namespace.
  std::vector<pid_t> processes() const;

  // Limits; 0 takes one away. Unfit: no controller for it here. One that is no stricter than a
  // parent's may be left to the parent.
  Status set_cpu_quota(double cpus) const;
  Status set_memory_limit(std::uint64_t bytes) const;
  // The share of each processor that its threads may take with real-time priority, 0 to 1. Some
  // kernels give version 1 groups none before they are told; elsewhere there is nothing to tell. An
  // error: more than the parent has to give.
  Status allow_real_time(double share) const;
  // 0: no limit of its own.
  Result<double> cpu_quota() const;
  Result<std::uint64_t> memory_limit_bytes() const;
  Result<std::uint64_t> cpu_usage_ns() const;
  Result<std::uint64_t> memory_usage_bytes() const;

  // Ends every process in it and below, also while they fork; returns when there is none left.
  Status kill(std::chrono::milliseconds timeout = std::chrono::milliseconds(10'000)) const;
  // Removes the group and the groups below; fine if it is gone. FailedPrecondition: in use.
  Status remove() const;

 private:
  struct Member {
    bool unified = false;
    std::vector<std::string> controllers;
    std::filesystem::path directory;
  };

  // Nobody enters the group there.
  bool is_idle(const Member& member) const;
  // The group's directory in the hierarchy that has this controller's file.
  Result<const Member*> member_with(std::string_view controller, std::string_view v1_file,
                                    std::string_view v2_file) const;
  void signal_all() const;

  std::filesystem::path path_;
  std::vector<Member> members_;
};

}  // namespace baton::sys
