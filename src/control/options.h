// Options of `baton controller` and the cluster's policy.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/result.h"
#include "control/store_key.h"
#include "wire/baton.pb.h"

namespace baton::control {

struct ControllerOptions {
  std::filesystem::path data = "/var/lib/baton/controller";
  std::vector<std::string> listen;      // for agents; empty: wire::kDefaultClusterAddress
  std::vector<std::string> listen_api;  // for users, beside the socket
  std::string socket;                   // empty: <data>/baton.sock
  bool insecure = false;                // TCP without TLS: loopback only
  std::uint32_t lease_ms = 3'000;
  std::size_t most_jobs = 100'000;  // that it knows, also those that have ended
  std::filesystem::path policy_file;
  v1::Policy policy;  // overrides of the file
  StoreKeySource store_key;
  StoreKeySource old_store_key;  // that it takes the place of
  std::string log_level = "info";
};

// A TOML file with the fields of the policy by name, durations in milliseconds:
//   cpu_threshold = 0.85
//   cpu_for_ms = 5000
// InvalidArgument names the line or the key that is wrong.
Result<v1::Policy> load_policy(const std::filesystem::path& path);
Result<v1::Policy> parse_policy(std::string_view text, const std::string& name);

// Every field set: defaults, then the file, then the overrides. Checked.
Result<v1::Policy> cluster_policy(const ControllerOptions& options);

// "3s", "500ms", "2m". 0 without a unit is fine.
Result<std::uint32_t> parse_duration_ms(const std::string& text);

}  // namespace baton::control
