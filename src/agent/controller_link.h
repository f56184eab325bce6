// What an agent asks of its controller, apart from heartbeats and orders (lease.h, attach.h).
//
// Thread-safe. Calls block; errors carry the controller's code: StaleGeneration when the
// incarnation has been superseded, Unavailable when the controller is away.
#pragma once

#include <atomic>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "agent/cancel.h"
#include "base/ids.h"
#include "base/result.h"
#include "store/manifest.h"
#include "wire/baton.grpc.pb.h"
#include "wire/channel.h"

namespace baton::agent {

namespace pb = baton::v1;

struct UploadResult {
  CheckpointNumber number;
  std::vector<store::StoredFile> files;  // what the checkpoint consists of
};

class ControllerLink {
 public:
  virtual ~ControllerLink() = default;

  // Returns the offset before which the controller has every byte. Empty data only asks.
  virtual Result<std::uint64_t> ship_output(JobId job, Generation generation, std::uint64_t offset,
                                            std::string data, CancelToken& cancel) = 0;

  // Sends a checkpoint's directory; returns when it is durable. `superseded` breaks it off only
  // while the controller can't have committed it yet (Cancelled); `cancel` at any time, after
  // which it may or may not have been committed. `confirm`, if there is one, is asked when all has
  // been sent: its error breaks it off, too, and is the result.
  virtual Result<UploadResult> upload(const pb::UploadHeader& header,
                                      const std::filesystem::path& directory,
                                      const std::atomic<bool>& superseded,
                                      const std::function<Status()>& confirm,
                                      CancelToken& cancel) = 0;

  // Fetches a checkpoint into `directory` (made by this call), verified. When `have_it` says of
  // its description that the node has it already, nothing is fetched and no directory made. Shared
  // files that the request says we have are linked from the checkpoint's directory `reuse`.
  struct Download {
    pb::Checkpoint info;
    std::vector<store::StoredFile> files;
    bool fetched = false;
    std::uint64_t bytes = 0;  // that came over the wire
  };
  virtual Result<Download> download(const pb::DownloadRequest& request,
                                    const std::filesystem::path& directory,
                                    const std::filesystem::path& reuse,
                                    const std::function<bool(const pb::Checkpoint&)>& have_it,
                                    CancelToken& cancel) = 0;

  virtual Status report_exit(const pb::ExitReport& report, CancelToken& cancel) = 0;
  virtual Status report_checkpoint(const pb::CheckpointReport& report, CancelToken& cancel) = 0;
};

// Over a connection of its own. Checkpoints for which no job waits take `bytes_per_second` at most
// in each direction; 0: all there is.
std::unique_ptr<ControllerLink> connect_controller(const wire::Dialer& dialer,
                                                   std::uint64_t bytes_per_second);

// How an error is told to the controller.
pb::FailureKind failure_kind(const Error& error);

}  // namespace baton::agent
