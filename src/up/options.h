// What a person asked of `baton up`.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

namespace baton::up {

struct Options {
  int nodes = 2;
  std::filesystem::path data;  // empty: a temporary directory, removed at the end
  std::string lease;           // as typed; empty: the controller's default
  double cpu_quota = 0;        // CPUs per node; 0: one, or what fits
  std::filesystem::path policy;
  std::filesystem::path store_key_file;
  std::string store_key_command;
  std::filesystem::path old_store_key_file;
  std::string old_store_key_command;
  std::filesystem::path criu;  // prefix; empty: the agent's default
  bool no_restart = false;
  std::int64_t power_on_after_ms = -1;  // a node that was cut comes back; -1: never
  int ready_fd = -1;
};

}  // namespace baton::up
