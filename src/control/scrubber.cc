#include "control/scrubber.h"

#include <map>

#include "base/clock.h"
#include "base/log.h"
#include "control/verify.h"
#include "sys/priority.h"

namespace baton::control {
namespace {

constexpr std::uint64_t kBytesPerSecond = 32u << 20;
constexpr std::chrono::milliseconds kBetweenPasses{30'000};

// When nothing else has come of it. Each time is a transaction.
constexpr std::int64_t kRecordAgainAfterMs = 600'000;

std::chrono::milliseconds pace(std::uint64_t bytes) {
  return std::chrono::milliseconds(bytes * 1000 / kBytesPerSecond);
}

}  // namespace

void Scrubber::run(std::stop_token stop) {
  sys::work_behind_others();
  while (!stop.stop_requested()) {
    pause(kBetweenPasses, stop);
    pass(stop);
  }
}

void Scrubber::pause(std::chrono::milliseconds time, std::stop_token stop) {
  std::unique_lock lock(mutex_);
  never_.wait_for(lock, stop, time, [] { return false; });
}

void Scrubber::pass(std::stop_token stop) {
  auto& checkpoints = loop_.stores().checkpoints;
  const auto whole = read_shared_files(stop);
  store::CheckpointStore::CheckOptions options;
  // The link may be of another file than the one that is shared now.
  options.skip = [&](const store::StoredFile& file, const std::filesystem::path& link) {
    const std::string name = link.filename();
    std::error_code absent;
    return store::in_shared_folder(file.path) && whole.contains(name) &&
           std::filesystem::equivalent(link, checkpoints.shared_file(name), absent);
  };
  options.pace = [&](std::uint64_t bytes) {
    pause(pace(bytes), stop);
    return stop.stop_requested() ? Status(fail(ErrorCode::Cancelled, "stopped")) : Status();
  };
  for (const auto& [job, number] : recorded_checkpoints(loop_)) {
    auto verified = verify_checkpoint(loop_, job, number, options, kRecordAgainAfterMs);
    if (stop.stop_requested()) return;
    if (!verified && verified.error().code() != ErrorCode::NotFound)
      spdlog::warn("scrubbing: {}", verified.error().message());
  }
}

// Those that are whole.
std::set<std::string> Scrubber::read_shared_files(std::stop_token stop) {
  std::set<std::string> whole;
  auto& checkpoints = loop_.stores().checkpoints;
  auto names = checkpoints.list_shared_files();
  if (!names) {
    spdlog::warn("scrubbing: {}", names.error().message());
    return whole;
  }
  for (const auto& name : *names) {
    if (stop.stop_requested()) return whole;
    auto check = checkpoints.check_shared_file(name);
    if (!check) {
      spdlog::warn("scrubbing: {}", check.error().message());
      continue;
    }
    if (check->damage.empty())
      whole.insert(name);
    else
      tell(*check);
    pause(pace(check->bytes), stop);
  }
  return whole;
}

void Scrubber::tell(const store::CheckpointStore::SharedFileCheck& check) {
  std::map<JobId, std::string> numbers;
  for (auto [job, number] : check.holders)
    numbers[job] += fmt::format("{}{}", numbers[job].empty() ? "" : ", ", number);
  spdlog::error("damaged: {}", check.damage);
  loop_.with_lock([&](Loop::Locked& l) {
    for (const auto& [job, list] : numbers) {
      const core::JobRecord* record = l.state.core.find_job(job);
      if (!record) continue;
      v1::Event event;
      event.set_at_wall_ms(wall_time_ms());
      event.set_kind("damage");
      event.set_job_id(job.value);
      event.set_job_name(record->name);
      event.set_text(
          fmt::format("{}: a file of its checkpoints ({}) is damaged; while it runs, the next "
                      "checkpoint brings it anew: {}",
                      record->name, list, check.damage));
      Loop::Extra extra;
      extra.changes.events.push_back(std::move(event));
      l.apply(core::Tick{}, std::move(extra));
    }
  });
}

}  // namespace baton::control
