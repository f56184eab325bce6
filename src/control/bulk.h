// Checkpoints on their way in and out.
#pragma once

#include <grpcpp/support/sync_stream.h>

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
  Result<CheckpointNumber> upload(grpc::ServerReaderInterface<v1::UploadPart>& stream);
  // Damaged names the file that is missing or wrong.
  Status download(const v1::DownloadRequest& request,
                  grpc::ServerWriterInterface<v1::DownloadPart>& stream);

  // Held while a checkpoint of the job is published and not recorded yet.
  std::shared_ptr<std::mutex> commit_mutex(JobId job);

 private:
  Status check_current(const v1::UploadHeader& header);
  Result<CheckpointNumber> commit(store::Upload& upload, const v1::UploadHeader& header);
  Status make_visible(const v1::UploadHeader& header, const v1::Checkpoint& info);

  ServiceContext& context_;
  std::mutex mutex_;
  std::map<JobId, std::shared_ptr<std::mutex>> commit_mutexes_;
};

}  // namespace baton::control
