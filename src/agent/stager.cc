#include "agent/stager.h"

#include <pthread.h>
#include <sys/statvfs.h>

#include "agent/fetch.h"
#include "base/fault.h"
#include "base/log.h"
#include "sys/file.h"

namespace baton::agent {
namespace {

namespace fs = std::filesystem;

constexpr int kWorkers = 3;
// What becomes ready later is of use all the same.
constexpr std::chrono::seconds kMemoryWait{5};
// Of the disk, which others need as well: jobs that run here, above all.
constexpr double kKeptFree = 0.05;

}  // namespace

Stager::Stager(NodeContext& node, std::function<bool(JobId)> lives_here)
    : node_(node), lives_here_(std::move(lives_here)) {
  for (int i = 0; i < kWorkers; ++i) {
    workers_.emplace_back([this] {
      ::pthread_setname_np(::pthread_self(), "stage");
      work();
    });
  }
}

Stager::~Stager() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    for (auto& [job, queue] : queues_)
      for (auto& work : queue) work->cancel.cancel();
  }
  changed_.notify_all();
  for (auto& worker : workers_) worker.join();
}

fs::path Stager::scratch(JobId job) const {
  return node_.data / "staging" / std::to_string(job.value);
}

void Stager::take_up() {
  if (auto removed = sys::remove_tree(node_.data / "staging"); !removed)
    spdlog::warn("{}", removed.error().message());
  std::lock_guard lock(mutex_);
  list();
}

void Stager::list() {
  Roster::Staged staged;
  std::set<JobId> listed;
  for (const auto& copy : node_.copies.staged()) {
    pb::StagedCopy& entry = staged.emplace_back();
    entry.set_job_id(copy->info().job_id());
    entry.set_checkpoint(copy->info().number());
    listed.insert(JobId(entry.job_id()));
  }
  for (const auto& [job, queue] : queues_)
    if (!listed.contains(job)) staged.emplace_back().set_job_id(job.value);
  node_.roster.set_staged(std::move(staged));
}

void Stager::order(std::uint64_t order_id, const pb::StageOrder& order) {
  const JobId job(order.job_id());
  auto work = std::make_shared<Work>();
  work->order_id = order_id;
  work->number = CheckpointNumber(order.checkpoint());
  work->await_memory = order.await_memory();
  {
    std::lock_guard lock(mutex_);
    Queue& queue = queues_[job];
    queue.push_back(std::move(work));
    if (queue.size() == 1) ready_.push_back(job);
    list();
  }
  changed_.notify_one();
}

void Stager::give_way(JobId job) {
  std::lock_guard lock(mutex_);
  auto found = queues_.find(job);
  if (found == queues_.end()) return;
  for (auto& work : found->second) {
    if (work->number.value == 0) continue;  // a drop stays due
    work->given_up = true;
    work->cancel.cancel();
  }
}

void Stager::work() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return stopping_ || !ready_.empty(); });
    if (stopping_) return;
    const JobId job = ready_.front();
    ready_.pop_front();
    const std::shared_ptr<Work> work = queues_[job].front();
    lock.unlock();
    const pb::OrderResult result = execute(job, *work);
    lock.lock();
    Queue& queue = queues_[job];
    queue.pop_front();
    if (queue.empty())
      queues_.erase(job);
    else
      ready_.push_back(job);
    list();  // before the answer: who has it sees the new list
    if (!ready_.empty()) changed_.notify_one();
    lock.unlock();
    node_.send_result(result);
    lock.lock();
  }
}

pb::OrderResult Stager::execute(JobId job, Work& work) {
  pb::OrderResult result;
  result.set_order_id(work.order_id);
  result.set_checkpoint(work.number.value);
  auto bring = [&]() -> Status {
    if (work.number.value == 0) return drop(job);
    if (lives_here_(job)) return fail(ErrorCode::FailedPrecondition, "the job lives on this node");
    BATON_CHECK(fault("agent.stage.before_fetch"));
    const fs::path directory = scratch(job);
    BATON_CHECK(sys::make_directories(directory.parent_path(), 0700));
    FetchRequest request{.job = job, .number = work.number, .directory = directory};
    request.accept = [&](const pb::Checkpoint& info) { return check_budget(job, info); };
    request.keep = [&](ControllerLink::Download& download) {
      return keep(work, directory, download);
    };
    BATON_TRY(const Fetched fetched, fetch_checkpoint(node_, request, work.cancel));
    result.set_fetch_ms(fetched.ms);
    result.set_fetched_bytes(fetched.bytes);
    if (work.await_memory) result.set_memory_ms(await_memory(job, work.number));
    spdlog::debug("job {}: checkpoint {} is ready here, {} KiB fetched in {:.1f} ms", job,
                  work.number, fetched.bytes >> 10, fetched.ms);
    return {};
  };
  if (const Status status = bring(); !status) {
    result.set_failure(failure_kind(status.error()));
    result.set_error(status.error().message());
    spdlog::info("job {}: checkpoint {} not staged: {}", job, work.number,
                 status.error().message());
  }
  return result;
}

// Only one worker does: the others are for those who have no time.
double Stager::await_memory(JobId job, CheckpointNumber number) {
  if (!node_.ready) return 0;
  const std::unique_lock turn(memory_turn_, std::try_to_lock);
  if (!turn) return 0;
  const std::int64_t began_ns = node_.now_ns();
  node_.ready->await(job, number, kMemoryWait);
  return static_cast<double>(node_.now_ns() - began_ns) / 1e6;
}

Status Stager::drop(JobId job) {
  if (node_.ready) node_.ready->drop(job);
  const auto copy = node_.copies.find(job);
  if (!copy || !copy->staged()) return {};
  if (lives_here_(job))
    node_.copies.unstage(job);
  else
    node_.copies.drop(job);
  return {};
}

Status Stager::check_budget(JobId job, const pb::Checkpoint& info) const {
  std::uint64_t bytes = info.size_bytes();
  for (const auto& copy : node_.copies.staged())
    if (copy->info().job_id() != job.value) bytes += copy->info().size_bytes();
  if (node_.standby_limit_bytes != 0 && bytes > node_.standby_limit_bytes)
    return fail(ErrorCode::NoSpace,
                fmt::format("copies for jobs of other nodes would take {} MiB, {} MiB are allowed "
                            "(--standby-limit)",
                            bytes >> 20, node_.standby_limit_bytes >> 20));
  struct statvfs disk {};
  if (::statvfs(node_.data.c_str(), &disk) != 0) return {};
  const double size = static_cast<double>(disk.f_blocks) * static_cast<double>(disk.f_frsize);
  const double free = static_cast<double>(disk.f_bavail) * static_cast<double>(disk.f_frsize);
  if (free - static_cast<double>(info.size_bytes()) >= kKeptFree * size) return {};
  return fail(ErrorCode::NoSpace,
              fmt::format("the disk of {} has {} MiB left, too few for a copy of {} MiB",
                          node_.data.string(), static_cast<std::uint64_t>(free) >> 20,
                          info.size_bytes() >> 20));
}

Result<std::shared_ptr<LocalCopy>> Stager::keep(Work& work, const fs::path& directory,
                                                ControllerLink::Download& download) {
  BATON_CHECK(fault("agent.stage.before_keep"));
  std::lock_guard lock(mutex_);  // so that give_way() comes before or after it
  if (work.given_up) return fail(ErrorCode::Cancelled, "the job comes to life here");
  BATON_TRY(auto copy,
            node_.copies.keep(download.info, directory, std::move(download.files), true));
  if (node_.ready) node_.ready->staged(JobId(download.info.job_id()), copy);
  return copy;
}

}  // namespace baton::agent
