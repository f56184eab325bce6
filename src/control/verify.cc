#include "control/verify.h"

#include "base/clock.h"

namespace baton::control {
namespace {

constexpr std::size_t kRecordedDamage = 8;

// What the core is told and people read in a list: the first, and how many there are.
std::string in_one_line(const std::vector<std::string>& damage) {
  if (damage.empty()) return "";
  return damage.size() == 1 ? damage[0]
                            : fmt::format("{} (and {} more files)", damage[0], damage.size() - 1);
}

bool same_damage(const v1::Checkpoint& info, const std::vector<std::string>& damage) {
  const auto count = std::min(damage.size(), kRecordedDamage);
  return static_cast<std::size_t>(info.damage_size()) == count &&
         std::equal(info.damage().begin(), info.damage().end(), damage.begin());
}

Result<std::vector<std::pair<JobId, CheckpointNumber>>> meant(Loop& loop,
                                                              const v1::VerifyRequest& request) {
  auto all = recorded_checkpoints(loop);
  if (request.job().name_or_id().empty()) return all;
  BATON_TRY(JobId job, loop.with_lock([&](Loop::Locked& l) {
    return l.state.find_job(request.job().name_or_id());
  }));
  std::erase_if(all, [&](const auto& key) {
    return key.first != job || (request.number() != 0 && key.second.value != request.number());
  });
  if (all.empty() && request.number() != 0)
    return fail(ErrorCode::NotFound, fmt::format("{} has no checkpoint {}",
                                                 request.job().name_or_id(), request.number()));
  return all;
}

}  // namespace

std::vector<std::pair<JobId, CheckpointNumber>> recorded_checkpoints(Loop& loop) {
  return loop.with_lock([&](Loop::Locked& l) {
    std::vector<std::pair<JobId, CheckpointNumber>> keys;
    for (const auto& [job, entry] : l.state.jobs)
      for (const auto& [number, info] : entry.checkpoints) keys.emplace_back(job, number);
    return keys;
  });
}

Result<v1::VerifiedCheckpoint> verify_checkpoint(
    Loop& loop, JobId job, CheckpointNumber number,
    const store::CheckpointStore::CheckOptions& options, std::int64_t record_again_after_ms) {
  const std::int64_t began = wall_time_ms();
  BATON_TRY(auto check, loop.stores().checkpoints.check(job, number, options));
  v1::VerifiedCheckpoint result;
  result.set_job_id(job.value);
  result.set_number(number.value);
  result.set_files(check.files);
  result.set_bytes(check.bytes);
  for (const auto& damage : check.damage) result.add_damage(damage);
  return loop.with_lock([&](Loop::Locked& l) -> Result<v1::VerifiedCheckpoint> {
    auto entry = l.state.jobs.find(job);
    const core::JobRecord* record = l.state.core.find_job(job);
    if (!record || entry == l.state.jobs.end() || !entry->second.checkpoints.contains(number))
      return fail(ErrorCode::NotFound,
                  fmt::format("checkpoint {} of job {} was removed meanwhile", number, job));
    result.set_job_name(record->name);
    v1::Checkpoint& info = entry->second.checkpoints.at(number);
    if (same_damage(info, check.damage) && began - info.verified_wall_ms() < record_again_after_ms)
      return result;
    info.set_verified_wall_ms(began);
    info.clear_damage();
    for (const auto& damage : check.damage)
      if (static_cast<std::size_t>(info.damage_size()) < kRecordedDamage) info.add_damage(damage);
    Loop::Extra extra;
    extra.changes.checkpoints.push_back({job, info});
    l.apply(core::CheckpointVerified{job, number, !check.damage.empty(), in_one_line(check.damage)},
            std::move(extra));
    return result;
  });
}

Status verify_checkpoints(Loop& loop, const v1::VerifyRequest& request, std::stop_token stop,
                          const std::function<Status(v1::VerifiedCheckpoint)>& take) {
  store::CheckpointStore::CheckOptions options;
  options.pace = [&](std::uint64_t) {
    return stop.stop_requested() ? Status(fail(ErrorCode::Cancelled, "cancelled")) : Status();
  };
  BATON_TRY(auto keys, meant(loop, request));
  for (const auto& [job, number] : keys) {
    auto verified = verify_checkpoint(loop, job, number, options);
    const bool removed = !verified && verified.error().code() == ErrorCode::NotFound;
    if (removed && request.number() == 0) continue;
    if (!verified) return fail(std::move(verified).error());
    BATON_CHECK(take(std::move(*verified)));
  }
  return {};
}

}  // namespace baton::control
