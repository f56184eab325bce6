#include "agent/controller_link.h"

#include "agent/transfer.h"
#include "base/clock.h"
#include "wire/channel.h"
#include "wire/status.h"
#include "wire/text.h"

namespace baton::agent {
namespace {

// A call that says nothing for so long will not say anything any more. Uploads and downloads
// have no such limit: they end with their connection.
constexpr std::chrono::seconds kCallTimeout{10};

class GrpcControllerLink : public ControllerLink {
 public:
  GrpcControllerLink(std::shared_ptr<grpc::Channel> channel, std::uint64_t bytes_per_second)
      : stub_(pb::Cluster::NewStub(channel)),
        up_(bytes_per_second, boot_time_ns),
        down_(bytes_per_second, boot_time_ns) {}

  Result<std::uint64_t> ship_output(JobId job, Generation generation, std::uint64_t offset,
                                    std::string data, CancelToken& cancel) override {
    pb::OutputChunk chunk;
    chunk.set_job_id(job.value);
    chunk.set_generation(generation.value);
    chunk.set_offset(offset);
    chunk.set_data(std::move(data));
    pb::OutputReply reply;
    BATON_CHECK(call(cancel, [&](grpc::ClientContext* context) {
      return stub_->ShipOutput(context, chunk, &reply);
    }));
    return reply.next_offset();
  }

  Result<UploadResult> upload(const pb::UploadHeader& header,
                              const std::filesystem::path& directory,
                              const std::atomic<bool>& superseded,
                              const std::function<Status()>& confirm,
                              CancelToken& cancel) override {
    // A job that stands still for it does not wait.
    return upload_checkpoint(*stub_, header, directory, superseded, confirm, cancel,
                             header.hold() ? nullptr : &up_);
  }

  Result<Download> download(const pb::DownloadRequest& request,
                            const std::filesystem::path& directory,
                            const std::filesystem::path& reuse,
                            const std::function<bool(const pb::Checkpoint&)>& have_it,
                            CancelToken& cancel) override {
    // Nor does one that is to be restored; generation 0 is a copy in advance.
    return download_checkpoint(*stub_, request, directory, reuse, have_it, cancel,
                               request.generation() != 0 ? nullptr : &down_);
  }

  Status report_exit(const pb::ExitReport& original, CancelToken& cancel) override {
    pb::ExitReport report = original;
    wire::clean_text(report);
    pb::Empty empty;
    return call(cancel, [&](grpc::ClientContext* context) {
      return stub_->ReportExit(context, report, &empty);
    });
  }

  Status report_checkpoint(const pb::CheckpointReport& original, CancelToken& cancel) override {
    pb::CheckpointReport report = original;
    wire::clean_text(report);
    pb::Empty empty;
    return call(cancel, [&](grpc::ClientContext* context) {
      return stub_->ReportCheckpoint(context, report, &empty);
    });
  }

 private:
  template <typename Call>
  Status call(CancelToken& cancel, const Call& what) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + kCallTimeout);
    CancellableCall guard(cancel, context);
    return wire::check(what(&context));
  }

  std::unique_ptr<pb::Cluster::Stub> stub_;
  Throttle up_, down_;
};

}  // namespace

std::unique_ptr<ControllerLink> connect_controller(const wire::Dialer& dialer,
                                                   std::uint64_t bytes_per_second) {
  return std::make_unique<GrpcControllerLink>(dialer.open(), bytes_per_second);
}

pb::FailureKind failure_kind(const Error& error) {
  switch (error.code()) {
    case ErrorCode::InvalidArgument:
    case ErrorCode::NotFound: return pb::FAILURE_INVALID;
    case ErrorCode::Unfit: return pb::FAILURE_UNFIT_NODE;
    case ErrorCode::Damaged: return pb::FAILURE_DAMAGED_CHECKPOINT;
    case ErrorCode::Refused: return pb::FAILURE_REFUSED;
    case ErrorCode::NoSpace: return pb::FAILURE_NO_SPACE;
    case ErrorCode::StaleGeneration: return pb::FAILURE_STALE;
    default: return pb::FAILURE_INTERNAL;
  }
}

}  // namespace baton::agent
