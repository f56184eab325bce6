// `baton controller` on a fresh data directory, and what it costs.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <filesystem>
#include <memory>
#include <string>

#include "base/result.h"
#include "sys/process.h"

namespace baton::bench {

inline constexpr std::chrono::seconds kLease{5};

// CPU time of a process, all threads, so far.
Result<double> cpu_seconds(pid_t pid);

class ControllerProcess {
 public:
  // Two free ports of loopback, one for agents and one for users; mutual TLS on both.
  static Result<std::unique_ptr<ControllerProcess>> start(const std::filesystem::path& baton,
                                                          const std::filesystem::path& directory);
  // Kills it at once and starts it again where it was.
  Status restart();
  ~ControllerProcess();
  ControllerProcess(const ControllerProcess&) = delete;
  ControllerProcess& operator=(const ControllerProcess&) = delete;

  pid_t pid() const { return spawned_.pid; }
  std::string socket() const { return directory_ / "data" / "baton.sock"; }
  const std::string& agents_address() const { return agents_address_; }
  const std::string& users_address() const { return users_address_; }

  double resident_mib() const;
  double resident_peak_mib() const;
  double anonymous_mib() const;  // heap and stacks
  int threads() const;
  int descriptors() const;

 private:
  ControllerProcess(std::filesystem::path baton, std::filesystem::path directory)
      : baton_(std::move(baton)), directory_(std::move(directory)) {}
  Status launch();
  double status_number(std::string_view field) const;

  const std::filesystem::path baton_, directory_;
  std::string agents_address_;
  std::string users_address_;
  sys::Spawned spawned_;
};

}  // namespace baton::bench
