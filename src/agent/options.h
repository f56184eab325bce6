// Options of `baton agent`.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

namespace baton::agent {

struct AgentOptions {
  std::string controller = "127.0.0.1:7077";
  std::filesystem::path data = "/var/lib/baton/agent";
  std::filesystem::path join;         // file with a token; "-": standard input
  bool insecure = false;              // a controller on loopback, without TLS
  std::string name;                   // default: the host name
  std::string address;                // told to people, never dialled
  std::filesystem::path criu_prefix;  // default: see default_criu_prefix()
  std::string node_cgroup;            // below the hierarchies' mount points; "": this process's own
  bool kill_jobs_on_exit = false;
  std::uint64_t standby_limit_bytes = 0;  // 0: what the disk allows
  // For memory of such jobs, decompressed; absent: an eighth of what is free.
  std::optional<std::uint64_t> standby_memory_bytes;
  std::uint64_t bandwidth = 0;  // bytes per second for checkpoints nobody waits for; 0: no limit
  std::string log_level = "info";
};

// $BATON_CRIU, else "criu" beside this program, else /usr/local/lib/baton/criu.
std::filesystem::path default_criu_prefix();

}  // namespace baton::agent
