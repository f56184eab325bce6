#include "control/store_service.h"

#include "control/answer.h"
#include "control/archives.h"
#include "control/compare.h"
#include "control/housekeeping.h"
#include "control/image_view.h"
#include "control/pins.h"
#include "control/verify.h"
#include "wire/channel.h"

namespace baton::control {
namespace {

template <typename Reply>
Status give(Reply& reply, Result<Reply> result) {
  if (!result) return fail(std::move(result).error());
  reply = std::move(*result);
  return {};
}

}  // namespace

Status StoreService::own_job(Call* call, v1::JobRef& ref) {
  BATON_TRY(const JobId id, context_.access.own_job(*call, context_.loop, ref));
  ref.set_name_or_id(fmt::to_string(id.value));
  return {};
}

grpc::ServerUnaryReactor* StoreService::Pin(Call* call, const v1::PinRequest* request,
                                            v1::Checkpoint* reply) {
  return answer(context_.calls, context_.access.who(*call),
                [this, call, request, reply](std::stop_token stop) -> Status {
                  auto own = *request;
                  BATON_CHECK(own_job(call, *own.mutable_checkpoint()->mutable_job()));
                  return give(*reply, pin(context_, own, stop));
                });
}

grpc::ServerUnaryReactor* StoreService::Unpin(Call* call, const v1::UnpinRequest* request,
                                              v1::Checkpoint* reply) {
  return answer(context_.calls, context_.access.who(*call),
                [this, call, request, reply](std::stop_token stop) -> Status {
                  auto own = *request;
                  BATON_CHECK(own_job(call, *own.mutable_checkpoint()->mutable_job()));
                  return give(*reply, unpin(context_, own, stop));
                });
}

grpc::ServerUnaryReactor* StoreService::Orphans(Call* call, const v1::Empty*,
                                                v1::StoreOrphansReply* reply) {
  return answer(context_.calls, context_.access.who(*call), [this, reply](std::stop_token stop) {
    return give(*reply, list_orphans(context_.loop, bulk_, stop));
  });
}

grpc::ServerUnaryReactor* StoreService::Collect(Call* call, const v1::Empty*,
                                                v1::CollectReply* reply) {
  return answer(context_.calls, context_.access.who(*call), [this, reply](std::stop_token stop) {
    return give(*reply, collect(context_.loop, bulk_, stop));
  });
}

grpc::ServerUnaryReactor* StoreService::Stats(Call* call, const v1::Empty*,
                                              v1::StoreStatsReply* reply) {
  return answer(context_.calls, context_.access.who(*call), [this, reply](std::stop_token) {
    *reply = store_stats(context_.loop);
    return Status();
  });
}

grpc::ServerWriteReactor<v1::VerifiedCheckpoint>* StoreService::Verify(
    Call* call, const v1::VerifyRequest* request) {
  return BlockingStream<v1::VerifiedCheckpoint>::start(
      context_.calls, context_.access.who(*call), [this, request](auto& stream) {
        auto send = [&](v1::VerifiedCheckpoint verified) {
          return stream.write(std::move(verified))
                     ? Status()
                     : Status(fail(ErrorCode::Cancelled, "cancelled"));
        };
        return wire::to_grpc(
            explain(verify_checkpoints(context_.loop, *request, stream.stop_token(), send),
                    context_.calls));
      });
}

grpc::ServerUnaryReactor* StoreService::Diff(Call* call, const v1::DiffRequest* request,
                                             v1::DiffReply* reply) {
  return answer(context_.calls, context_.access.who(*call),
                [this, call, request, reply](std::stop_token) -> Status {
                  auto own = *request;
                  BATON_CHECK(own_job(call, *own.mutable_job()));
                  return give(*reply, compare(context_, own));
                });
}

grpc::ServerUnaryReactor* StoreService::Inspect(Call* call, const v1::InspectRequest* request,
                                                v1::CheckpointImage* reply) {
  return answer(context_.calls, context_.access.who(*call),
                [this, call, request, reply](std::stop_token) -> Status {
                  auto own = *request;
                  BATON_CHECK(own_job(call, *own.mutable_checkpoint()->mutable_job()));
                  return give(*reply, view_checkpoint(context_, own));
                });
}

Status StoreService::send_archive(Call* call, v1::CheckpointRef ref,
                                  BlockingStream<v1::ExportPart>& stream) {
  BATON_CHECK(own_job(call, *ref.mutable_job()));
  std::string buffer;
  auto send = [&]() -> Status {
    v1::ExportPart part;
    part.set_data(std::exchange(buffer, {}));
    if (stream.write(std::move(part))) return {};
    return fail(ErrorCode::Cancelled, "cancelled");
  };
  BATON_CHECK(export_checkpoint(context_, ref, [&](std::string_view data) -> Status {
    buffer += data;
    return buffer.size() < wire::kChunkBytes ? Status() : send();
  }));
  return send();
}

grpc::ServerWriteReactor<v1::ExportPart>* StoreService::Export(Call* call,
                                                               const v1::CheckpointRef* request) {
  return BlockingStream<v1::ExportPart>::start(
      context_.calls, context_.access.who(*call), [this, call, request](auto& stream) {
        return wire::to_grpc(explain(send_archive(call, *request, stream), context_.calls));
      });
}

Status StoreService::take_archive(Call* call, BlockingUpload<v1::ImportPart>& stream,
                                  v1::Job& job) {
  BATON_TRY(const Caller caller, context_.access.caller(*call));
  v1::ImportPart part;
  if (!stream.read(part) || part.what_case() != v1::ImportPart::kName)
    return fail(ErrorCode::InvalidArgument, "import: the first message has no name");
  const std::string name = part.name();
  auto source = [&]() -> Result<std::string> {
    while (stream.read(part))
      if (!part.data().empty()) return std::move(*part.mutable_data());
    if (stream.stop_token().stop_requested()) return fail(ErrorCode::Cancelled, "cancelled");
    return std::string();
  };
  BATON_TRY(const JobId id,
            import_checkpoint(context_, bulk_, {name, caller.user()}, source, stream.stop_token()));
  job = context_.loop.with_lock([&](Loop::Locked& l) { return l.state.job_view(id); });
  return {};
}

grpc::ServerReadReactor<v1::ImportPart>* StoreService::Import(Call* call, v1::Job* reply) {
  return BlockingUpload<v1::ImportPart>::start(
      context_.calls, context_.access.who(*call), [this, call, reply](auto& stream) {
        return wire::to_grpc(explain(take_archive(call, stream, *reply), context_.calls));
      });
}

}  // namespace baton::control
