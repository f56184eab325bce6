#include <google/protobuf/util/json_util.h>

#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "base/fault.h"
#include "base/nesting.h"
#include "control/archives.h"
#include "control/convert.h"
#include "control/validate.h"

namespace baton::control {
namespace {

using store::ArchiveMember;
using store::ArchiveReader;

const CheckpointNumber kNumber(1);

struct Description {
  v1::JobSpec spec;
  v1::Checkpoint info;
};

template <typename Message>
Status parse(const nlohmann::json& description, const char* field, Message& message) {
  google::protobuf::util::JsonParseOptions options;
  options.ignore_unknown_fields = true;  // a newer version's
  const auto found = description.find(field);
  if (found != description.end() && found->is_object() &&
      google::protobuf::util::JsonStringToMessage(found->dump(), &message, options).ok())
    return {};
  return fail(ErrorCode::Damaged, fmt::format("archive of a checkpoint: no readable {}", field));
}

Result<Description> parse_description(const std::string& text) {
  const auto json =
      nests_deeper(text) ? nlohmann::json() : nlohmann::json::parse(text, nullptr, false);
  if (!json.is_object())
    return fail(ErrorCode::Damaged, "archive of a checkpoint: its description can't be read");
  Description description;
  BATON_CHECK(parse(json, "spec", description.spec));
  BATON_CHECK(parse(json, "checkpoint", description.info));
  return description;
}

Status check_free(Loop::Locked& l, const std::string& name) {
  if (!l.state.core.find_job(std::string_view(name))) return {};
  return fail(ErrorCode::AlreadyExists,
              fmt::format("there is a job named {} already; choose another with --name", name));
}

// An import under way; what it has brought goes with it unless it was published.
class Import {
 public:
  Import(ServiceContext& context, JobId job)
      : context_(context), stores_(context.loop.stores()), job_(job) {}
  ~Import() {
    if (kept_) return;
    upload_.reset();
    (void)stores_.checkpoints.remove_job(job_);
    (void)stores_.logs.remove(job_);
  }

  Status take(ArchiveReader& archive, const ArchiveMember& member) {
    if (!upload_) {
      BATON_TRY(upload_,
                stores_.checkpoints.begin_upload(job_, store::CheckpointStore::Sharing::None));
    }
    if (member.kind == ArchiveMember::Kind::Output) return take_output(archive);
    BATON_CHECK(upload_->begin_file(member.path, member.size, member.mode));
    BATON_TRY(std::string hash,
              archive.read([&](std::string_view data) { return upload_->write(data); }));
    return upload_->end_file(hash);
  }

  // Everything has come and is right.
  Status publish(Bulk& bulk, Description& description, std::stop_token stop) {
    if (!upload_) return fail(ErrorCode::Damaged, "archive of a checkpoint: it has no files");
    v1::Checkpoint& info = description.info;
    if (info.output_bytes() != output_bytes_)
      return fail(ErrorCode::Damaged,
                  fmt::format("archive of a checkpoint: it has {} bytes of output, not {}",
                              output_bytes_, info.output_bytes()));
    complete(info);
    BATON_TRY(auto log, stores_.logs.get(job_));
    BATON_CHECK(log->make_durable(output_bytes_));
    auto publishing = bulk.commit_mutex(job_);
    std::lock_guard lock(*publishing);
    BATON_CHECK(upload_->publish(kNumber, to_store_json(info, description.spec)));
    BATON_CHECK(fault("import.before_commit"));
    BATON_TRY(const Ticket ticket, make_visible(description));
    kept_ = true;
    return context_.loop.wait_saved(ticket, stop);
  }

 private:
  Status take_output(ArchiveReader& archive) {
    BATON_TRY(auto log, stores_.logs.get(job_));
    BATON_TRY(std::string hash, archive.read([&](std::string_view data) -> Status {
      BATON_TRY(output_bytes_, log->append(Generation(), output_bytes_, data));
      return {};
    }));
    return {};
  }

  // What is true of it here, whatever it says.
  void complete(v1::Checkpoint& info) {
    info.set_number(kNumber.value);
    info.set_job_id(job_.value);
    info.set_generation(0);
    info.set_size_bytes(upload_->total_bytes());
    info.set_new_bytes(upload_->new_bytes());
    info.set_cause("import");
    info.set_verified_wall_ms(wall_time_ms());
    info.clear_quarantined();
    info.clear_quarantine_cause();
    info.clear_preflighted();
    info.clear_pins();
    info.clear_damage();
    info.clear_copies();
  }

  Result<Ticket> make_visible(const Description& description) {
    return context_.loop.with_lock([&](Loop::Locked& l) -> Result<Ticket> {
      BATON_CHECK(check_free(l, description.spec.name()));
      BATON_CHECK(check_job_count(l.state.jobs.size(), context_.most_jobs));
      core::ImportJob input;
      input.job = record_from_spec(description.spec, merge(core::Policy(), context_.policy));
      input.job.id = job_;
      input.job.name = description.spec.name();
      input.job.checkpoints.push_back(from_wire(description.info));
      JobEntry& entry = l.state.jobs[job_];
      entry.spec = description.spec;
      entry.submitted_wall_ms = wall_time_ms();
      entry.next_checkpoint = kNumber.value + 1;
      entry.checkpoints[kNumber] = description.info;
      Loop::Extra extra;
      extra.changes.checkpoints.push_back({job_, description.info});
      extra.actions.push_back(CheckpointVisible{job_, output_bytes_});
      Loop::Applied applied = l.apply(input, std::move(extra));
      if (applied.reply) return applied.ticket;
      l.state.jobs.erase(job_);
      return fail(applied.reply.error());
    });
  }

  ServiceContext& context_;
  Loop::Stores& stores_;
  const JobId job_;
  std::unique_ptr<store::Upload> upload_;
  std::uint64_t output_bytes_ = 0;
  bool kept_ = false;
};

}  // namespace

Result<JobId> import_checkpoint(ServiceContext& context, Bulk& bulk, const NewJob& wanted,
                                ArchiveReader::Source source, std::stop_token stop) {
  BATON_CHECK(context.loop.check_room());
  ArchiveReader archive(std::move(source));
  BATON_TRY(auto member, archive.next());
  if (!member) return fail(ErrorCode::Damaged, "archive of a checkpoint: it is empty");
  std::string text;
  BATON_CHECK(archive.read([&](std::string_view data) {
    text += data;
    return Status();
  }));
  BATON_TRY(Description description, parse_description(text));
  description.spec.clear_node();  // another cluster's
  BATON_CHECK_CTX(check_job_spec(description.spec), "archive of a checkpoint");
  if (!wanted.name.empty()) description.spec.set_name(wanted.name);
  description.spec.set_owner(wanted.owner);
  BATON_CHECK(check_job_name(description.spec.name()));
  BATON_TRY(const JobId job, context.loop.with_lock([&](Loop::Locked& l) -> Result<JobId> {
    BATON_CHECK(check_free(l, description.spec.name()));
    return JobId(l.state.next_job_id++);
  }));
  Import arriving(context, job);
  for (;;) {
    BATON_TRY(member, archive.next());
    if (!member) break;
    if (stop.stop_requested()) return fail(ErrorCode::Cancelled, "cancelled");
    BATON_CHECK(arriving.take(archive, *member));
  }
  BATON_CHECK(arriving.publish(bulk, description, stop));
  return job;
}

}  // namespace baton::control
