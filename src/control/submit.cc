// ApiService::submit: a new job.
#include <algorithm>

#include "base/clock.h"
#include "control/api_service.h"
#include "control/convert.h"
#include "control/validate.h"

namespace baton::control {
namespace {

// "/usr/bin/my prog" as job 7 -> "my_prog-7".
std::string made_up_name(const std::string& command, JobId id) {
  std::string name = command.substr(command.rfind('/') + 1);
  name.resize(std::min<std::size_t>(name.size(), 40));
  for (char& c : name)
    if (!check_job_name(std::string("x") + c)) c = '_';
  if (name.empty() || name.starts_with('-') || name.starts_with('.')) name = "job";
  return fmt::format("{}-{}", name, id);
}

}  // namespace

Result<JobId> ApiService::submit(Call* call, v1::JobSpec spec, std::stop_token stop) {
  BATON_TRY(const Caller caller, context_.access.caller(*call));
  spec.set_owner(caller.user());
  BATON_CHECK(check_job_spec(spec));
  BATON_CHECK(context_.loop.check_room(spec.ByteSizeLong()));
  JobId id(context_.loop.with_lock([&](Loop::Locked& l) { return l.state.next_job_id++; }));
  auto& logs = context_.loop.stores().logs;
  BATON_CHECK(logs.get(id));
  if (spec.workdir().empty()) spec.set_workdir("/");
  auto applied = context_.loop.with_lock([&](Loop::Locked& l) -> Result<Loop::Applied> {
    BATON_CHECK(check_job_count(l.state.jobs.size(), context_.most_jobs));
    if (!spec.node().empty()) BATON_CHECK(l.state.find_node(spec.node()));
    if (spec.name().empty()) spec.set_name(made_up_name(spec.argv(0), id));
    if (l.state.core.find_job(std::string_view(spec.name())))
      return fail(ErrorCode::AlreadyExists,
                  fmt::format("there is a job named {} already; remove it (baton rm {}) or choose "
                              "another name",
                              spec.name(), spec.name()));
    core::SubmitJob input;
    input.job = record_from_spec(spec, merge(core::Policy(), context_.policy));
    input.job.id = id;
    input.job.name = spec.name();
    JobEntry& entry = l.state.jobs[id];
    entry.spec = spec;
    entry.submitted_wall_ms = wall_time_ms();
    Loop::Applied result = l.apply(input);
    if (result.reply) return result;
    l.state.jobs.erase(id);
    return fail(result.reply.error());
  });
  if (!applied) {
    (void)logs.remove(id);
    return fail(applied.error());
  }
  BATON_CHECK(context_.loop.wait_saved(applied->ticket, stop));
  return id;
}

}  // namespace baton::control
