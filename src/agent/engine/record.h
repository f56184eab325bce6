// checkpoint.json: what a restore needs to know besides CRIU's images and the archives.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "agent/engine/engine.h"
#include "base/result.h"
#include "store/file_content.h"
#include "sys/process_attributes.h"

namespace baton::agent {

struct TreeRecord {
  std::string name;     // as in Sandbox::private_trees()
  std::string archive;  // file name in the checkpoint's directory
  // Of files whose content is in files/, by their number in the archive.
  std::vector<store::FileContent> contents;
};

// A file or directory of the base that the job had open or mapped.
struct BaseFileRecord {
  std::string path;  // in the sandbox
  std::string tree;  // the overlay it belongs to
  bool is_directory = false;
  std::uint64_t size_bytes = 0;
  std::uint32_t mode = 0;  // with the type, as in stat
  std::uint32_t uid = 0;
  std::uint32_t gid = 0;
  std::int64_t mtime_ns = 0;
  std::string hash;  // of the content; empty for a directory
};

struct CheckpointRecord {
  CheckpointInfo info;
  std::string kernel;
  std::string hostname;
  pid_t root_pid = 0;  // inner pids
  pid_t command_pid = 0;
  std::vector<pid_t> pids;  // of all processes and threads
  std::vector<TreeRecord> trees;
  std::vector<BaseFileRecord> base_files;
  std::vector<sys::ProcessAttributes> attributes;
};

Status write_record(const std::filesystem::path& directory, const CheckpointRecord& record);
// Damaged when it is missing or not what write_record() wrote.
Result<CheckpointRecord> read_record(const std::filesystem::path& directory);

}  // namespace baton::agent
