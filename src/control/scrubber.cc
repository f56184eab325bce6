#include "control/scrubber.h"

#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <map>

#include "base/clock.h"
#include "base/log.h"

namespace baton::control {
namespace {

constexpr std::uint64_t kBytesPerSecond = 32u << 20;
constexpr std::chrono::milliseconds kBetweenPasses{30'000};

// Behind everything else that wants the disk or a processor.
void lower_priority() {
  ::setpriority(PRIO_PROCESS, static_cast<id_t>(::syscall(SYS_gettid)), 19);
  constexpr int kThisThread = 1;
  constexpr int kIdleClass = 3 << 13;
  ::syscall(SYS_ioprio_set, kThisThread, 0, kIdleClass);
}

}  // namespace

void Scrubber::run(std::stop_token stop) {
  lower_priority();
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
  auto hashes = checkpoints.list_shared_files();
  if (!hashes) return spdlog::warn("scrubbing: {}", hashes.error().message());
  for (const auto& hash : *hashes) {
    if (stop.stop_requested()) return;
    auto check = checkpoints.check_shared_file(hash);
    if (!check) {
      spdlog::warn("scrubbing: {}", check.error().message());
      continue;
    }
    if (!check->damage.empty()) tell(*check);
    pause(std::chrono::milliseconds(check->bytes * 1000 / kBytesPerSecond), stop);
  }
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
