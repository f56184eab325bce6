// Checkpoints of a running incarnation: taking, shipping, proving them.
#include "agent/incarnation.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "sys/file.h"

namespace baton::agent {
namespace {

constexpr std::uint64_t kLogTailBytes = 8 << 10;
constexpr std::int64_t kFirstPreflightPauseMs = 30'000;
constexpr std::int64_t kLastPreflightPauseMs = 600'000;

double to_ms(std::int64_t us) { return static_cast<double>(us) / 1e3; }

}  // namespace

std::filesystem::path Incarnation::next_directory() {
  return record_.checkpoints() / std::to_string(++checkpoints_taken_);
}

pb::Checkpoint Incarnation::describe(const CheckpointInfo& info, const char* cause) const {
  pb::Checkpoint result;
  result.set_job_id(job().value);
  result.set_generation(generation().value);
  result.set_taken_wall_ms(wall_time_ms());
  result.set_size_bytes(info.size_bytes);
  result.set_memory_bytes(info.memory_bytes);
  result.set_memory(info.memory);
  result.set_output_bytes(info.output_bytes);
  result.set_frozen_ms(to_ms(info.frozen_us));
  result.set_total_ms(to_ms(info.total_us));
  result.set_node(node_.node);
  result.set_processes(info.process_count);
  result.set_threads(info.thread_count);
  result.set_criu_version(node_.criu_version);
  result.mutable_cpu_features()->Assign(node_.cpu_features.begin(), node_.cpu_features.end());
  result.set_cause(cause);
  return result;
}

void Incarnation::checkpoint(const char* cause, std::optional<std::uint64_t> order_id) {
  if (node_.criu_version.empty())
    return checkpoint_failed(Error(ErrorCode::Unfit, node_.criu_problem), order_id);
  schedule_->begun(node_.now_ns() / 1'000'000);
  auto directory = next_directory();
  auto info = [&]() -> Result<CheckpointInfo> {
    BATON_CHECK(sys::make_directories(record_.checkpoints(), 0700));
    BATON_CHECK(fault("agent.checkpoint.before_dump"));
    return node_.engine.checkpoint(*sandbox_, directory);
  }();
  if (!info) return checkpoint_failed(info.error(), order_id);
  schedule_->succeeded();
  spdlog::debug("{}: checkpoint taken, {} KiB, frozen {:.1f} ms", name(), info->size_bytes >> 10,
                to_ms(info->frozen_us));
  ship(*info, std::move(directory), cause, order_id);
}

void Incarnation::checkpoint_failed(const Error& error, std::optional<std::uint64_t> order_id) {
  Error told = error;
  pb::OrderResult result;
  if (sandbox_->is_ending()) {
    told = Error(ErrorCode::FailedPrecondition, "the job ended during its checkpoint");
  } else {
    if (error.code() == ErrorCode::NoSpace)
      told = std::move(told).context(fmt::format("disk of node {} full", node_.node));
    schedule_->failed(error.code() == ErrorCode::Refused, node_.now_ns() / 1'000'000);
    spdlog::warn("{}: checkpoint failed: {}", name(), told.message());
    result.set_log_tail(dump_log_tail());
    if (error.code() == ErrorCode::Damaged) {
      broken(error);
      result.set_failure(pb::FAILURE_BROKEN_INCARNATION);
    }
    pb::CheckpointReport message;
    message.set_failure(error.code() == ErrorCode::Damaged ? pb::FAILURE_BROKEN_INCARNATION
                                                           : failure_kind(error));
    message.set_error(told.message());
    message.set_log_tail(result.log_tail());
    report(message);
    failure_reported_ = true;
  }
  if (order_id) answer(*order_id, fail(told), std::move(result));
}

std::string Incarnation::dump_log_tail() const {
  auto log = sys::read_file(record_.sandbox_directory() / "criu-dump.log");
  if (!log) return {};
  return log->size() > kLogTailBytes ? log->substr(log->size() - kLogTailBytes) : *log;
}

void Incarnation::report(const pb::CheckpointReport& report) {
  pb::CheckpointReport message = report;
  message.set_job_id(job().value);
  message.set_generation(generation().value);
  if (auto told = node_.controller.report_checkpoint(message, cancel_); !told)
    spdlog::warn("{}: checkpoint report: {}", name(), told.error().message());
}

void Incarnation::ship(CheckpointInfo info, std::filesystem::path directory, const char* cause,
                       std::optional<std::uint64_t> order_id) {
  shipment_ = std::make_unique<Shipment>();
  shipment_->id = ++shipments_begun_;
  shipment_->description = describe(info, cause);
  shipment_->info = std::move(info);
  shipment_->directory = std::move(directory);
  shipment_->order_id = order_id;
  shipment_->thread = std::thread([this, shipment = shipment_.get()] {
    shipment->result = upload(*shipment, false);
    push(ShipDone{shipment->id});
  });
}

// The output that belongs to it goes first: a checkpoint whose output is missing is no checkpoint.
Result<UploadResult> Incarnation::upload(Shipment& shipment, bool hold,
                                         const std::function<Status()>& confirm) {
  BATON_CHECK(output_->flush_to(shipment.info.output_bytes, cancel_));
  BATON_CHECK(fault("agent.upload.begin"));
  pb::UploadHeader header;
  header.set_job_id(job().value);
  header.set_generation(generation().value);
  *header.mutable_info() = shipment.description;
  header.set_hold(hold);
  return node_.controller.upload(header, shipment.directory, shipment.superseded, confirm, cancel_);
}

// Waits for the shipment under way, if any, and draws the consequences. `supersede`: a newer
// checkpoint is wanted at once, so this one is given up unless the controller may have it already.
void Incarnation::finish_shipment(bool supersede) {
  if (!shipment_) return;
  if (supersede) shipment_->superseded = true;
  shipment_->thread.join();
  const auto shipment = std::move(shipment_);
  if (shipment->result) {
    committed(*shipment, !supersede);
    return;
  }
  const Error& error = shipment->result.error();
  if (error.code() != ErrorCode::Cancelled)
    spdlog::warn("{}: checkpoint not shipped: {}", name(), error.message());
  // A pack of an earlier checkpoint may have gone bad on this disk, and would so each time.
  if (error.code() == ErrorCode::Damaged) node_.engine.copy_anew(*sandbox_);
  if (auto removed = sys::remove_tree(shipment->directory); !removed)
    spdlog::warn("{}: {}", name(), removed.error().message());
  if (shipment->order_id) answer(*shipment->order_id, fail(error));
}

void Incarnation::committed(Shipment& shipment, bool may_preflight) {
  const CheckpointNumber number = shipment.result->number;
  shipment.description.set_number(number.value);
  spdlog::info("{}: checkpoint {} ({}) shipped, {} KiB, {} processes, frozen {:.1f} ms, memory {}",
               name(), number, shipment.description.cause(), shipment.info.size_bytes >> 10,
               shipment.info.process_count, to_ms(shipment.info.frozen_us), shipment.info.memory);
  output_->set_safe(shipment.info.output_bytes);
  if (shipment.order_id) {
    pb::OrderResult result;
    result.set_checkpoint(number.value);
    answer(*shipment.order_id, {}, std::move(result));
  }
  if (std::exchange(failure_reported_, false)) report(pb::CheckpointReport());
  auto copy = node_.copies.keep(shipment.description, shipment.directory,
                                std::move(shipment.result->files));
  if (!copy) {
    spdlog::warn("{}: no local copy: {}", name(), copy.error().message());
    (void)sys::remove_tree(shipment.directory);
    return;
  }
  if (may_preflight) maybe_preflight(shipment.info, std::move(*copy));
}

void Incarnation::maybe_preflight(const CheckpointInfo& info, std::shared_ptr<LocalCopy> copy) {
  if (shape_adds(known_shape_, info.shape)) {
    preflight_wanted_ = true;
    preflight_not_before_ms_ = 0;
  }
  const std::int64_t now_ms = node_.now_ns() / 1'000'000;
  if (!preflight_wanted_ || preflight_ || now_ms < preflight_not_before_ms_ || sandbox_ended())
    return;
  {
    std::lock_guard lock(mutex_);
    if (leaving_ || killed_) return;
  }
  preflight_wanted_ = false;
  if (preflight_thread_.joinable()) preflight_thread_.join();
  preflight_ = std::make_unique<Preflight>(node_, order_.spec(), job(), generation(), copy);
  preflight_thread_ = std::thread([this, preflight = preflight_.get(), copy] {
    pb::CheckpointReport message;
    std::string log_tail;
    const Status status = preflight->run(&log_tail);
    // What is not known is not told.
    const bool known = status || (status.error().code() != ErrorCode::Unfit &&
                                  status.error().code() != ErrorCode::Cancelled);
    if (known && !cancel_.cancelled()) {
      message.set_preflight(true);
      message.set_checkpoint(copy->info().number());
      if (!status) {
        message.set_failure(failure_kind(status.error()));
        message.set_error(status.error().message());
        message.set_log_tail(log_tail);
      }
      report(message);
    }
    preflight->clean_up();
    push(PreflightDone{status});
  });
}

void Incarnation::preflight_done(const Status& status) {
  preflight_thread_.join();
  preflight_.reset();
  if (status) {
    spdlog::info("{}: preflight passed, its checkpoints restore", name());
    preflight_pause_ms_ = 0;
    return;
  }
  if (status.error().code() == ErrorCode::Cancelled) {
    preflight_wanted_ = true;  // it gave way to something
    return;
  }
  spdlog::warn("{}: preflight failed: {}", name(), status.error().message());
  // It may have been this node's momentary state; look again, but less and less often.
  preflight_pause_ms_ =
      std::clamp(preflight_pause_ms_ * 2, kFirstPreflightPauseMs, kLastPreflightPauseMs);
  preflight_not_before_ms_ = node_.now_ns() / 1'000'000 + preflight_pause_ms_;
  preflight_wanted_ = true;
}

}  // namespace baton::agent
