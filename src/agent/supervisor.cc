#include "agent/supervisor.h"

#include <algorithm>

#include "base/log.h"
#include "sys/file.h"

namespace baton::agent {

namespace {

// A restart or a roll-back comes soon after the end; what comes later can be fetched.
constexpr std::int64_t kKeepCopyNs = std::int64_t{10} * 60 * 1'000'000'000;

}  // namespace

Status Supervisor::adopt_all() {
  BATON_TRY(auto names, list_records(node_.incarnations()));
  std::set<JobId> jobs;
  for (const RecordName& name : names) {
    if (auto status = adopt(name); !status)
      spdlog::warn("job {} generation {}: not adopted: {}", name.job, name.generation,
                   status.error().message());
    jobs.insert(name.job);
  }
  node_.copies.keep_only(jobs);
  stager_.take_up();
  return {};
}

Status Supervisor::adopt(const RecordName& name) {
  const Record record(node_.incarnations(), name.job, name.generation);
  BATON_CHECK(record.remove_debris());
  auto order = record.order();
  auto sandbox = node_.sandboxes.adopt(record.sandbox_directory());
  if (sandbox && (!order || !record.was_running())) {
    // The earlier agent died while it was being made; the controller was never told that it runs.
    BATON_CHECK((*sandbox)->kill());
    sandbox->reset();
  }
  if (!order || !record.was_running()) {
    std::error_code error;
    if (std::filesystem::exists(record.sandbox_directory(), error))
      BATON_CHECK(node_.sandboxes.remove(record.sandbox_directory()));
    return record.remove();
  }
  Incarnation::Origin origin;
  if (auto report = record.exit_report()) {
    origin = Incarnation::Ended{*report};
  } else if (sandbox) {
    origin = Incarnation::Adopt{std::move(*sandbox)};
  } else if (sandbox.error().code() == ErrorCode::NotFound) {
    auto exit = node_.sandboxes.read_exit(record.sandbox_directory());
    origin = Incarnation::Ended{make_exit_report(*order, exit.value_or(SandboxExit{}))};
  } else {
    return fail(sandbox.error());
  }
  std::lock_guard lock(mutex_);
  newest_[name.job] = std::max(newest_[name.job], name.generation);
  incarnations_[{name.job, name.generation}] =
      std::make_shared<Incarnation>(node_, std::move(*order), std::move(origin));
  return {};
}

std::shared_ptr<Incarnation> Supervisor::find(JobId job, Generation generation) const {
  std::lock_guard lock(mutex_);
  auto found = incarnations_.find({job, generation});
  return found == incarnations_.end() ? nullptr : found->second;
}

bool Supervisor::lives(JobId job) const {
  std::lock_guard lock(mutex_);
  return std::ranges::any_of(incarnations_, [&](const auto& item) {
    return item.first.first == job && !item.second->finished();
  });
}

void Supervisor::refuse(std::uint64_t order_id, const Error& error) {
  spdlog::warn("order refused: {}", error.message());
  pb::OrderResult result;
  result.set_order_id(order_id);
  result.set_failure(failure_kind(error));
  result.set_error(error.message());
  node_.send_result(result);
}

void Supervisor::order(const pb::Order& order) {
  auto about = [&](const auto& what) {
    return find(JobId(what.job_id()), Generation(what.generation()));
  };
  std::shared_ptr<Incarnation> incarnation;
  switch (order.what_case()) {
    case pb::Order::kStart:
      return bring(order.start(), order.order_id(), Incarnation::Start{order.order_id()});
    case pb::Order::kRestore: {
      pb::StartOrder start;
      start.set_job_id(order.restore().job_id());
      start.set_generation(order.restore().generation());
      *start.mutable_spec() = order.restore().spec();
      return bring(
          start, order.order_id(),
          Incarnation::Restore{order.order_id(), CheckpointNumber(order.restore().checkpoint())});
    }
    case pb::Order::kKill: incarnation = about(order.kill()); break;
    case pb::Order::kSignal: incarnation = about(order.signal()); break;
    case pb::Order::kCheckpoint: incarnation = about(order.checkpoint()); break;
    case pb::Order::kFreeze: incarnation = about(order.freeze()); break;
    case pb::Order::kRelease: incarnation = about(order.release()); break;
    case pb::Order::kStage: return stager_.order(order.order_id(), order.stage());
    case pb::Order::WHAT_NOT_SET: break;
  }
  if (order.has_kill()) {
    std::lock_guard lock(mutex_);
    Generation& newest = newest_[JobId(order.kill().job_id())];
    newest = std::max(newest, Generation(order.kill().generation()));
  }
  if (incarnation && order.has_kill()) return incarnation->kill(order.order_id());
  if (incarnation) return incarnation->post(order);
  const bool nothing_to_kill = order.has_kill() || (order.has_release() && order.release().kill());
  if (!nothing_to_kill)
    return refuse(order.order_id(),
                  Error(ErrorCode::StaleGeneration, "no such incarnation lives here"));
  pb::OrderResult done;
  done.set_order_id(order.order_id());
  node_.send_result(done);
}

void Supervisor::bring(const pb::StartOrder& order, std::uint64_t order_id,
                       Incarnation::Origin origin) {
  const JobId job(order.job_id());
  const Generation generation(order.generation());
  std::unique_lock lock(mutex_);
  if (newest_.contains(job) && generation <= newest_[job]) {
    lock.unlock();
    return refuse(order_id,
                  Error(ErrorCode::StaleGeneration,
                        fmt::format("job {} generation {} is not newer than what was here", job,
                                    generation)));
  }
  newest_[job] = generation;
  stager_.give_way(job);
  std::vector<std::shared_ptr<Incarnation>> predecessors;
  for (const auto& [key, incarnation] : incarnations_)
    if (key.first == job) predecessors.push_back(incarnation);
  incarnations_[{job, generation}] =
      std::make_shared<Incarnation>(node_, order, std::move(origin), std::move(predecessors));
}

void Supervisor::kill_superseded(const pb::RegisterReply& reply) {
  for (const auto& superseded : reply.kill()) {
    auto incarnation = find(JobId(superseded.job_id()), Generation(superseded.generation()));
    if (!incarnation) continue;
    spdlog::info("job {} generation {}: superseded, ending it", superseded.job_id(),
                 superseded.generation());
    incarnation->kill(std::nullopt);
  }
}

void Supervisor::bury() {
  std::vector<std::shared_ptr<Incarnation>> done;
  std::set<JobId> keep;
  {
    std::lock_guard lock(mutex_);
    const std::int64_t now_ns = node_.now_ns();
    std::erase_if(incarnations_, [&](const auto& item) {
      last_lived_ns_[item.first.first] = now_ns;
      if (!item.second->finished()) return false;
      done.push_back(item.second);
      return true;
    });
    std::erase_if(last_lived_ns_,
                  [&](const auto& item) { return now_ns - item.second > kKeepCopyNs; });
    for (const auto& [job, lived_ns] : last_lived_ns_) keep.insert(job);
  }
  node_.copies.keep_only(keep);
}

void Supervisor::kill_all() {
  std::map<Key, std::shared_ptr<Incarnation>> all;
  {
    std::lock_guard lock(mutex_);
    all = std::exchange(incarnations_, {});
  }
  for (const auto& [key, incarnation] : all) incarnation->kill(std::nullopt);
  all.clear();
}

std::vector<pb::JobSpec> Supervisor::specs() const {
  std::vector<pb::JobSpec> specs;
  std::lock_guard lock(mutex_);
  for (const auto& [key, incarnation] : incarnations_)
    if (!incarnation->finished()) specs.push_back(incarnation->spec());
  return specs;
}

}  // namespace baton::agent
