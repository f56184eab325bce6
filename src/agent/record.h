// What is on disk about an incarnation, besides its sandbox:
//
//   DIR/incarnations/<job>.<generation>/
//     incarnation.json   pb.StartOrder: the job's spec and its generation; durable before anything
//                        runs
//     running            exists once the command runs or was restored
//     exit.json          pb.ExitReport that the controller has not acknowledged yet
//     sandbox/           see sandbox.h
//     checkpoints/<k>/   being taken or shipped; garbage to the next agent
//     restore/           being fetched; likewise
#pragma once

#include <filesystem>
#include <optional>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "wire/baton.pb.h"

namespace baton::agent {

namespace pb = baton::v1;

class Record {
 public:
  Record(const std::filesystem::path& incarnations, JobId job, Generation generation);

  const std::filesystem::path& directory() const { return directory_; }
  std::filesystem::path sandbox_directory() const { return directory_ / "sandbox"; }
  std::filesystem::path checkpoints() const { return directory_ / "checkpoints"; }
  std::filesystem::path restore() const { return directory_ / "restore"; }

  Status create(const pb::StartOrder& order) const;
  Status mark_running() const;
  Status save_exit(const pb::ExitReport& report) const;

  Result<pb::StartOrder> order() const;
  bool was_running() const;
  std::optional<pb::ExitReport> exit_report() const;

  // Half-made checkpoints and downloads of an earlier agent.
  Status remove_debris() const;
  // All but the sandbox, which must have been removed before.
  Status remove() const;

 private:
  std::filesystem::path directory_;
};

// Every incarnation that has a directory, readable or not.
struct RecordName {
  JobId job;
  Generation generation;
};
Result<std::vector<RecordName>> list_records(const std::filesystem::path& incarnations);

}  // namespace baton::agent
