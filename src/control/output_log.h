// The output of jobs, as `baton logs` serves it: DIR/<job id>.log, byte for byte.
//
// One writer per job at a time, named by its generation; its bytes come in order without gaps.
// `safe` is the length that no recovery takes back: what a committed checkpoint covers, or all of
// it once the job has ended. It shrinks only when someone goes back behind it (a checkpoint that
// did not restore, a job rolled back by hand). Thread-safe; logs stay valid while shared.
#pragma once

#include <condition_variable>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <stop_token>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/ids.h"
#include "base/result.h"

namespace baton::control {

class OutputLog {
 public:
  OutputLog(std::filesystem::path path, Fd fd, std::uint64_t length);

  // From now on only this generation may append.
  void set_writer(Generation generation);
  // Cuts the log to `length`; a shorter log stays as it is.
  Status roll_back(std::uint64_t length);
  // Appends what is new of `data`, which belongs at `offset`; returns the offset that is wanted
  // next (below `offset` when bytes before it are missing). StaleGeneration: not the writer.
  Result<std::uint64_t> append(Generation generation, std::uint64_t offset, std::string_view data);
  // Everything before `length` survives a power cut. FailedPrecondition: there is less than that.
  Status make_durable(std::uint64_t length);

  void set_safe(std::uint64_t length);
  // Without a checkpoint to go back to, nothing is ever taken back.
  void set_always_safe(bool always_safe);
  void set_ended(bool ended);

  std::uint64_t length() const;
  std::uint64_t safe_length() const;

  struct Part {
    std::uint64_t offset = 0;
    std::string data;
    bool ended = false;  // the job has ended and this is the last part
  };
  // Up to max_bytes at `offset`; empty at the end. What is there now.
  Result<Part> read(std::uint64_t offset, std::size_t max_bytes) const;
  // As read(), but waits for more. Safe bytes only, each offset once, unless `live`; then output
  // that was taken back comes again as a part with a lower offset. Cancelled: stop was requested.
  Result<Part> follow(std::uint64_t offset, std::size_t max_bytes, bool live,
                      std::stop_token stop) const;
  // The job was removed: followers end.
  void set_removed();

 private:
  std::uint64_t safe_length_locked() const;
  Result<std::string> read_range(std::uint64_t offset, std::uint64_t end) const;

  const std::filesystem::path path_;
  const Fd fd_;
  mutable std::mutex mutex_;
  mutable std::condition_variable_any changed_;
  Generation writer_;
  std::uint64_t length_;
  std::uint64_t safe_ = 0;
  std::uint64_t durable_ = 0;
  std::uint64_t roll_backs_ = 0;
  bool always_safe_ = false;
  bool ended_ = false;
  bool removed_ = false;
};

class OutputLogs {
 public:
  // Makes the folder.
  static Result<std::unique_ptr<OutputLogs>> open(std::filesystem::path folder);

  // The job's log; made if there is none.
  Result<std::shared_ptr<OutputLog>> get(JobId job);
  Status remove(JobId job);
  // Jobs of which there is a log on disk.
  Result<std::vector<JobId>> list() const;
  std::uint64_t size_bytes(JobId job) const;  // 0: there is none

 private:
  explicit OutputLogs(std::filesystem::path folder) : folder_(std::move(folder)) {}

  const std::filesystem::path folder_;
  std::mutex mutex_;
  std::map<JobId, std::shared_ptr<OutputLog>> logs_;
};

}  // namespace baton::control
