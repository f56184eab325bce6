// Checkpoints on their way in and out.
#pragma once

#include <grpcpp/support/sync_stream.h>

#include <functional>
#include <map>
#include <memory>
#include <mutex>

#include "control/service_context.h"
#include "store/upload.h"

namespace baton::control {

class Bulk {
 public:
  explicit Bulk(ServiceContext& context) : context_(context) {}

  // Returns the number under which the checkpoint is durable and visible; on any error nothing of
  // it is left. StaleGeneration, Unavailable (this incarnation is not current yet), NoSpace …
  // `allowed` is asked before anything is taken, and again when it becomes visible.
  using Allowed = std::function<Status(Loop::Locked&, JobId, Generation)>;
  Result<CheckpointNumber> upload(grpc::ServerReaderInterface<v1::UploadPart>& stream,
                                  const Allowed& allowed);
  // For the node that the request names: one that runs the job, is to, or stands by for it
  // (Forbidden). Damaged names the file that is missing or wrong.
  Status download(const v1::DownloadRequest& request,
                  grpc::ServerWriterInterface<v1::DownloadPart>& stream);

  // Held while a checkpoint of the job is published and not recorded yet.
  std::shared_ptr<std::mutex> commit_mutex(JobId job);

 private:
  Status check_current(const v1::UploadHeader& header, const Allowed& allowed);
  Result<CheckpointNumber> commit(store::Upload& upload, const v1::UploadHeader& header,
                                  const Allowed& allowed);
  Status make_visible(const v1::UploadHeader& header, const v1::Checkpoint& info,
                      const Allowed& allowed);

  ServiceContext& context_;
  std::mutex mutex_;
  std::map<JobId, std::shared_ptr<std::mutex>> commit_mutexes_;
};

}  // namespace baton::control
