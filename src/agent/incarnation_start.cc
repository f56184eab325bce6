// How an incarnation comes to run: from its command, from a checkpoint, or found running.
#include <future>

#include "agent/incarnation.h"
#include "agent/specs.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "sys/file.h"

namespace baton::agent {
namespace {

double ms_between(std::int64_t from_ns, std::int64_t to_ns) {
  return static_cast<double>(to_ns - from_ns) / 1e6;
}

// What is missing on this node may be there on another.
Error node_problem(Error error) {
  if (error.code() != ErrorCode::NotFound) return error;
  return Error(ErrorCode::Unfit, error.message());
}

}  // namespace

Status Incarnation::bring_up() {
  if (std::holds_alternative<Ended>(origin_)) return fail(ErrorCode::FailedPrecondition, "ended");
  if (std::holds_alternative<Adopt>(origin_)) {
    spdlog::info("{}: adopted", name());
    if (auto copy = node_.copies.find(job())) node_.engine.build_on(*sandbox_, copy->directory());
    return begin_living();
  }
  end_predecessors();
  const Status status = std::holds_alternative<Start>(origin_) ? start_fresh() : restore();
  if (!status) spdlog::warn("{}: {}", name(), status.error().message());
  return status;
}

// An order for a newer generation says that the controller has given the older ones up. Mostly they
// have ended already and only their burial is still under way.
void Incarnation::end_predecessors() {
  for (const auto& predecessor : predecessors_) {
    predecessor->kill(std::nullopt);
    predecessor->wait_finished();
  }
  predecessors_.clear();
}

// A lease that is about to run out would end the incarnation in the middle of its birth.
Status Incarnation::check_ready() const {
  {
    std::lock_guard lock(mutex_);
    if (killed_ || leaving_) return fail(ErrorCode::Cancelled, "ended before it ran");
  }
  if (node_.lease.allows_start(node_.now_ns())) return {};
  return fail(ErrorCode::Unfit, fmt::format("node {} holds no lease to run it under", node_.node));
}

Status Incarnation::begin_living() {
  output_ = std::make_unique<OutputShipper>(node_.controller, job(), generation(),
                                            sandbox_->output_file());
  BATON_CHECK_CTX(output_->start(), "output");
  schedule_.emplace(order_.spec().interval_ms(), node_.now_ns() / 1'000'000);
  return {};
}

Status Incarnation::start_fresh() {
  const std::uint64_t order_id = std::get<Start>(origin_).order_id;
  pb::OrderResult result;
  auto start = [&]() -> Status {
    BATON_CHECK(check_ready());
    BATON_TRY(const CommandSpec command, command_spec(order_.spec()));
    BATON_CHECK(record_.create(order_));
    BATON_CHECK(fault("agent.start.before_sandbox"));
    auto spec =
        sandbox_spec(node_, order_.spec(), job(), generation(), record_.sandbox_directory());
    auto sandbox = node_.sandboxes.create(spec);
    if (!sandbox) return fail(node_problem(std::move(sandbox).error()).context("sandbox"));
    take_sandbox(std::move(*sandbox));
    BATON_CHECK(check_ready());
    BATON_CHECK(sandbox_->start(command));
    const std::int64_t running_ns = node_.now_ns();
    BATON_CHECK(record_.mark_running());
    BATON_CHECK(begin_living());
    entry_->state = pb::INCARNATION_RUNNING;
    result.set_running_for_ms(ms_between(running_ns, node_.now_ns()));
    return {};
  };
  Status status = start();
  if (status) {
    spdlog::info("{}: started", name());
    answer(order_id, status, std::move(result));
    return status;
  }
  // Gone first, then told: the controller may start it elsewhere at once.
  remove_all();
  answer(order_id, status);
  return status;
}

Status Incarnation::restore() {
  const auto& origin = std::get<Restore>(origin_);
  pb::OrderResult result;
  Fetched fetched;  // what it supersedes goes once the controller knows that the job runs
  auto bring_back = [&]() -> Status {
    BATON_CHECK(check_ready());
    if (node_.criu_version.empty()) return fail(ErrorCode::Unfit, node_.criu_problem);
    auto recorded = std::async(std::launch::async, [this] { return record_.create(order_); });
    BATON_TRY(fetched, fetch(origin.checkpoint));
    BATON_CHECK(recorded.get());
    result.set_fetch_ms(fetched.ms);
    BATON_CHECK(check_ready());
    Status restored = restore_from(*fetched.copy, result);
    if (restored) node_.copies.unstage(job());
    if (restored || restored.error().code() != ErrorCode::Damaged) return restored;
    // Parts of it may have lain here for long: if they went bad, the controller's are still good.
    if (const Status whole = fetched.copy->verify(); !whole)
      restored = fail(ErrorCode::Unfit, "this node's copy went bad: " + whole.error().message());
    node_.copies.drop(job());
    return restored;
  };
  Status status = bring_back();
  if (status) {
    (void)fault("agent.restore.before_result");
    spdlog::info("{}: restored from checkpoint {} (fetched in {:.1f} ms, restored in {:.1f} ms)",
                 name(), origin.checkpoint, result.fetch_ms(), result.restore_ms());
    answer(origin.order_id, status, std::move(result));
    return status;
  }
  if (node_.ready) node_.ready->drop(job());
  remove_all();
  answer(origin.order_id, status, std::move(result));
  return status;
}

// The node's own copy if it is that checkpoint and whole, else the controller's.
Result<Fetched> Incarnation::fetch(CheckpointNumber number) {
  FetchRequest request{
      .job = job(), .generation = generation(), .number = number, .directory = record_.restore()};
  request.keep = [&](ControllerLink::Download& download) {
    return node_.copies.keep(download.info, record_.restore(), std::move(download.files));
  };
  BATON_CHECK(fault("agent.restore.before_fetch"));
  return fetch_checkpoint(node_, request, cancel_);
}

Status Incarnation::restore_from(const LocalCopy& copy, pb::OrderResult& result) {
  const std::int64_t began_ns = node_.now_ns();
  auto spec = sandbox_spec(node_, order_.spec(), job(), generation(), record_.sandbox_directory());
  BATON_TRY(RestorePlan plan, node_.engine.prepare(copy.directory(), spec.base));
  apply_plan(plan, spec);
  auto sandbox = node_.sandboxes.create(spec);
  if (!sandbox) return fail(node_problem(std::move(sandbox).error()).context("sandbox"));
  take_sandbox(std::move(*sandbox));
  BATON_CHECK(check_ready());
  BATON_CHECK(fault("agent.restore.before_criu"));
  std::string log_tail;
  Status restored = node_.engine.restore(
      *sandbox_, copy.directory(),
      {.ready = node_.ready ? node_.ready->take(job()) : nullptr, .read_ahead = plan.read_ahead},
      &log_tail);
  if (!restored) {
    result.set_log_tail(log_tail);
    return fail(node_problem(std::move(restored).error()));
  }
  const std::int64_t running_ns = node_.now_ns();
  BATON_CHECK(record_.mark_running());
  BATON_CHECK(begin_living());
  output_->set_safe(copy.info().output_bytes());
  entry_->state = pb::INCARNATION_RUNNING;
  result.set_restore_ms(ms_between(began_ns, running_ns));
  result.set_running_for_ms(ms_between(running_ns, node_.now_ns()));
  return {};
}

}  // namespace baton::agent
