#include "control/bulk.h"

#include <set>

#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "control/convert.h"
#include "control/retention.h"
#include "store/reader.h"
#include "wire/file_parts.h"

namespace baton::control {
namespace {

Status take_file(store::Upload& upload, const v1::FilePart& part) {
  if (part.in_store()) return upload.link_shared_file(part.path(), part.size(), part.mode());
  if (!part.path().empty()) BATON_CHECK(upload.begin_file(part.path(), part.size(), part.mode()));
  if (!part.data().empty()) BATON_CHECK(upload.write(part.data()));
  return part.last() ? upload.end_file(part.xxh3_128()) : Status();
}

}  // namespace

Status Bulk::check_current(const v1::UploadHeader& header, const Allowed& allowed) {
  JobId job(header.job_id());
  Generation generation(header.generation());
  BATON_TRY(const core::Standing standing,
            context_.loop.with_lock([&](Loop::Locked& l) -> Result<core::Standing> {
              BATON_CHECK(allowed(l, job, generation));
              return l.state.core.standing(job, generation);
            }));
  switch (standing) {
    case core::Standing::Current: return {};
    case core::Standing::Attempt:
      return fail(ErrorCode::Unavailable, "this incarnation is not known to run yet");
    case core::Standing::Stale: break;
  }
  return fail(ErrorCode::StaleGeneration, fmt::format("generation {} is superseded", generation));
}

Result<CheckpointNumber> Bulk::upload(grpc::ServerReaderInterface<v1::UploadPart>& stream,
                                      const Allowed& allowed) {
  v1::UploadPart part;
  if (!stream.Read(&part) || !part.has_header())
    return fail(ErrorCode::InvalidArgument, "upload: the first message is no header");
  v1::UploadHeader header = part.header();
  auto outcome = [&]() -> Result<CheckpointNumber> {
    BATON_CHECK(check_current(header, allowed));
    BATON_TRY(auto upload, context_.loop.stores().checkpoints.begin_upload(JobId(header.job_id())));
    while (stream.Read(&part)) {
      if (part.done()) return commit(*upload, header, allowed);
      if (!part.has_files()) return fail(ErrorCode::InvalidArgument, "a part without content");
      for (const v1::FilePart& file : part.files().parts()) BATON_CHECK(take_file(*upload, file));
    }
    upload->keep_what_came();
    return fail(ErrorCode::Cancelled, "it was broken off");
  }();
  if (outcome) return outcome;
  return fail(outcome.error().context(fmt::format("checkpoint of job {}", header.job_id())));
}

std::shared_ptr<std::mutex> Bulk::commit_mutex(JobId job) {
  std::lock_guard lock(mutex_);
  auto& entry = commit_mutexes_[job];
  if (!entry) entry = std::make_shared<std::mutex>();
  return entry;
}

Result<CheckpointNumber> Bulk::commit(store::Upload& upload, const v1::UploadHeader& header,
                                      const Allowed& allowed) {
  JobId job(header.job_id());
  auto one_at_a_time = commit_mutex(job);
  std::lock_guard lock(*one_at_a_time);
  v1::JobSpec spec;
  auto number = context_.loop.with_lock([&](Loop::Locked& l) -> Result<CheckpointNumber> {
    auto entry = l.state.jobs.find(job);
    if (entry == l.state.jobs.end()) return fail(ErrorCode::StaleGeneration, "the job is gone");
    spec = entry->second.spec;
    return CheckpointNumber(entry->second.next_checkpoint++);
  });
  if (!number) return number;
  v1::Checkpoint info = header.info();
  info.set_number(number->value);
  info.set_job_id(job.value);
  info.set_generation(header.generation());
  info.set_size_bytes(upload.total_bytes());
  info.set_new_bytes(upload.new_bytes());
  info.clear_quarantined();
  info.clear_quarantine_cause();
  info.clear_pins();
  info.clear_verified_wall_ms();
  info.clear_damage();
  if (info.taken_wall_ms() == 0) info.set_taken_wall_ms(wall_time_ms());
  BATON_TRY(auto log, context_.loop.stores().logs.get(job));
  BATON_CHECK(log->make_durable(info.output_bytes()));
  BATON_CHECK(upload.publish(*number, to_store_json(info, spec)));
  BATON_CHECK(make_visible(header, info, allowed));
  retire_checkpoints(context_.loop, job);
  return number;
}

Status Bulk::make_visible(const v1::UploadHeader& header, const v1::Checkpoint& info,
                          const Allowed& allowed) {
  JobId job(header.job_id());
  core::CheckpointCommitted input;
  input.job = job;
  input.generation = Generation(header.generation());
  input.facts = from_wire(info);
  input.hold = header.hold();
  Result<Ticket> ticket = context_.loop.with_lock([&](Loop::Locked& l) -> Result<Ticket> {
    BATON_CHECK(fault("ship.before_commit"));
    BATON_CHECK(allowed(l, job, input.generation));
    auto entry = l.state.jobs.find(job);
    const core::JobRecord* record = l.state.core.find_job(job);
    if (!record || entry == l.state.jobs.end() ||
        l.state.core.standing(job, input.generation) != core::Standing::Current)
      return fail(ErrorCode::StaleGeneration,
                  fmt::format("generation {} is superseded", input.generation));
    v1::Checkpoint complete = info;
    if (record->current) complete.set_node(record->current->node.value);
    entry->second.checkpoints[input.facts.number] = complete;
    Loop::Extra extra;
    extra.changes.jobs.push_back(l.state.job_changes(*record, entry->second));
    extra.changes.checkpoints.push_back({job, std::move(complete)});
    extra.actions.push_back(CheckpointVisible{job, info.output_bytes()});
    return l.apply(input, std::move(extra)).ticket;
  });
  if (!ticket) {
    // Nobody knows of it: it can go.
    (void)context_.loop.stores().checkpoints.remove(job, input.facts.number);
    return fail(ticket.error());
  }
  return context_.loop.wait_saved(*ticket, context_.calls.stop_token());
}

Status Bulk::download(const v1::DownloadRequest& request,
                      grpc::ServerWriterInterface<v1::DownloadPart>& stream) {
  JobId job(request.job_id());
  Generation generation(request.generation());
  CheckpointNumber number(request.checkpoint());
  v1::DownloadPart part;
  Status known = context_.loop.with_lock([&](Loop::Locked& l) -> Status {
    const NodeId node(request.node());
    const bool to_stage = generation.value == 0 && l.state.core.may_stage(job, node);
    if (!to_stage && l.state.core.standing(job, generation) == core::Standing::Stale)
      return fail(ErrorCode::StaleGeneration,
                  fmt::format("job {}: generation {} is superseded", job, generation));
    const core::JobRecord* record = l.state.core.find_job(job);
    const bool placed = record && ((record->current && record->current->node == node) ||
                                   (record->attempt && record->attempt->node == node));
    if (!to_stage && !placed)
      return fail(ErrorCode::Forbidden, fmt::format("job {} is not for {} to run", job, node));
    auto entry = l.state.jobs.find(job);
    if (entry == l.state.jobs.end() || !entry->second.checkpoints.contains(number))
      return fail(ErrorCode::NotFound, fmt::format("job {} has no checkpoint {}", job, number));
    *part.mutable_info() = entry->second.checkpoints.at(number);
    return {};
  });
  BATON_CHECK(known);
  // Files need not be on their way before the next ones are read. What comes before all else takes
  // the stream's metadata along, which no write waits for.
  auto send = [&](const v1::DownloadPart& message) -> Status {
    grpc::WriteOptions options;
    if (message.has_files()) options.set_buffer_hint();
    if (stream.Write(message, options)) return {};
    return fail(ErrorCode::Cancelled, "the download was broken off");
  };
  BATON_TRY(auto reader, context_.loop.stores().checkpoints.open_reader(job, number));
  BATON_CHECK(send(part));
  const std::set<std::string, std::less<>> have(request.have_xxh3_128().begin(),
                                                request.have_xxh3_128().end());
  wire::FileParts<v1::DownloadPart> parts(send);
  for (const auto& file : reader->manifest().files) {
    auto begin = [&](v1::FilePart& out) {
      out.set_path(file.path);
      out.set_size(file.size);
      out.set_mode(file.mode);
    };
    if (have.contains(store::shared_file_hash(file.path))) {
      BATON_TRY(v1::FilePart* const out, parts.next(0));
      begin(*out);
      out->set_xxh3_128(file.xxh3_128);
      out->set_in_store(true);
      out->set_last(true);
      continue;
    }
    bool begun = false;
    auto add = [&](std::string_view data, bool last) -> Status {
      BATON_TRY(v1::FilePart* const out, parts.next(data.size()));
      if (!std::exchange(begun, true)) begin(*out);
      out->set_data(data.data(), data.size());
      out->set_last(last);
      if (last) out->set_xxh3_128(file.xxh3_128);
      return {};
    };
    BATON_CHECK(reader->read(file, wire::kChunkBytes, add));
  }
  BATON_CHECK(parts.flush());
  part.Clear();
  part.set_done(true);
  return send(part);
}

}  // namespace baton::control
