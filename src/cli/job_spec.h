// From the words of `baton run` to a job.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "wire/baton.pb.h"

namespace baton::cli {

// As typed; empty means not given.
struct SpecOptions {
  std::string name;
  std::string interval;
  bool no_checkpoint = false;
  std::string node;
  std::vector<std::string> env;
  std::string workdir;
  std::string user;
  std::string rootfs;
  std::vector<std::string> volumes;
  std::string memory;
  std::string cpus;
  std::string restart;
  std::string stdin_file;
  std::vector<std::string> policy;
  bool new_privileges = false;
  std::vector<std::string> capabilities;
};

// InvalidArgument names the option and what is wrong with it. Reads the standard input's file, the
// current directory and the caller's environment (for `--env KEY` and LANG).
Result<v1::JobSpec> make_spec(const SpecOptions& options, const std::vector<std::string>& command);

}  // namespace baton::cli
