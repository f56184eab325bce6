#include "cli/follow.h"

#include <algorithm>

#include "base/clock.h"
#include "cli/terminal.h"

namespace baton::cli {
namespace {

// One wait at the controller; longer ones are made of several.
constexpr std::int64_t kWaitSliceMs = 60'000;

// Writes what is new in `part` and moves `offset` behind it.
Status show(const v1::LogsPart& part, bool live, std::uint64_t& offset) {
  std::string_view data = part.data();
  if (part.offset() < offset) {
    if (live && !data.empty()) {
      print_error(fmt::format("the job went back to a checkpoint; its output goes on from byte {}",
                              part.offset()));
    } else {
      data.remove_prefix(std::min<std::uint64_t>(data.size(), offset - part.offset()));
    }
  } else if (part.offset() > offset) {
    return fail(ErrorCode::Damaged,
                fmt::format("bytes {} to {} of the output are missing", offset, part.offset()));
  }
  if (live || part.offset() + part.data().size() > offset)
    offset = part.offset() + part.data().size();
  return write_stdout(data);
}

}  // namespace

Status follow_output(Session& session, const OutputOptions& options) {
  v1::LogsRequest request;
  request.mutable_job()->set_name_or_id(options.job);
  request.set_follow(options.follow);
  request.set_live(options.live);
  BATON_CHECK(wire::check_text(request));
  std::uint64_t offset = options.offset;
  Status shown;
  BATON_CHECK(session.over_restarts([&](grpc::ClientContext& context) {
    request.set_offset(offset);
    auto stream = session.api().Logs(&context, request);
    v1::LogsPart part;
    bool ended = false;
    while (shown && stream->Read(&part)) {
      shown = show(part, options.live, offset);
      ended = ended || part.ended();
    }
    if (!shown) context.TryCancel();
    const grpc::Status status = stream->Finish();
    if (!shown || ended) return grpc::Status::OK;
    // A follower's stream that ends before the job does was cut by a controller going down.
    if (status.ok() && options.follow)
      return grpc::Status(grpc::StatusCode::UNAVAILABLE, "the stream was cut");
    return status;
  }));
  return shown;
}

Result<v1::Job> await_end(Session& session, const std::string& job, std::int64_t timeout_ms) {
  const std::int64_t end = boot_time_ms() + timeout_ms;
  v1::WaitRequest request;
  request.mutable_job()->set_name_or_id(job);
  BATON_CHECK(wire::check_text(request));
  v1::Job ended;
  for (;;) {
    const std::int64_t left = timeout_ms ? end - boot_time_ms() : kWaitSliceMs;
    request.set_timeout_ms(
        static_cast<std::uint32_t>(std::clamp<std::int64_t>(left, 1, kWaitSliceMs)));
    auto status = session.over_restarts([&](grpc::ClientContext& context) {
      return session.api().Wait(&context, request, &ended);
    });
    if (status) return ended;
    if (status.error().code() != ErrorCode::TimedOut) return fail(std::move(status).error());
    if (timeout_ms && boot_time_ms() >= end)
      return fail(ErrorCode::TimedOut, fmt::format("job {} has not ended yet", job));
  }
}

int exit_code_of(const v1::Job& job) {
  if (job.state() == v1::JOB_FAILED) {
    print_error(fmt::format("job {} failed: {}", job.spec().name(), job.reason()));
    return kExitBaton;
  }
  return job.has_exit_code() ? job.exit_code() : kExitBaton;
}

Status follow_events(Session& session, const v1::EventsRequest& first,
                     const std::function<bool(const v1::Event&)>& see) {
  v1::EventsRequest request = first;
  BATON_CHECK(wire::check_text(request));
  return session.over_restarts([&](grpc::ClientContext& context) {
    auto stream = session.api().Events(&context, request);
    v1::Event event;
    bool more = true;
    while (more && stream->Read(&event)) {
      if (event.sequence() <= request.after()) continue;
      request.set_after(event.sequence());
      more = see(event);
    }
    if (!more) context.TryCancel();
    const grpc::Status status = stream->Finish();
    if (!more) return grpc::Status::OK;
    if (status.ok() && request.follow())
      return grpc::Status(grpc::StatusCode::UNAVAILABLE, "the stream was cut");
    return status;
  });
}

}  // namespace baton::cli
