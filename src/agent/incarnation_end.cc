// How an incarnation ends: by itself, by its lease, by an order, by moving away, by going wrong.
#include "agent/incarnation.h"
#include "base/fault.h"
#include "base/log.h"
#include "sys/file.h"

namespace baton::agent {
namespace {

constexpr std::chrono::milliseconds kFirstRetry{100};
constexpr std::chrono::milliseconds kLastRetry{2'000};
// What a killed job printed last should be in its log, but a kill does not wait for ever.
constexpr std::chrono::milliseconds kLastWords{1'000};

const char* cause_of(SandboxExit::Kind kind) {
  switch (kind) {
    case SandboxExit::Kind::Exited: return "exited";
    case SandboxExit::Kind::Fenced: return "fenced";
    case SandboxExit::Kind::Killed: return "killed";
    case SandboxExit::Kind::Harmed:
    case SandboxExit::Kind::Lost: break;
  }
  return "lost";
}

bool is_answer(const Status& status) {
  if (status) return true;
  switch (status.error().code()) {
    case ErrorCode::Unavailable:
    case ErrorCode::TimedOut:
    case ErrorCode::Cancelled:
    case ErrorCode::Internal: return false;
    default: return true;
  }
}

}  // namespace

pb::ExitReport make_exit_report(const pb::StartOrder& order, const SandboxExit& exit) {
  pb::ExitReport report;
  report.set_job_id(order.job_id());
  report.set_generation(order.generation());
  report.set_code(exit.code);
  report.set_output_bytes(exit.output_bytes);
  report.set_cause(cause_of(exit.kind));
  if (exit.kind == SandboxExit::Kind::Harmed)
    report.set_detail("CRIU was killed during a checkpoint and may have harmed it");
  return report;
}

// Ends shipping, preflight and output; afterwards only this thread is left.
void Incarnation::stop_helpers() {
  if (preflight_) preflight_->cancel();
  finish_shipment(true);
  if (preflight_thread_.joinable()) preflight_thread_.join();
  preflight_.reset();
}

void Incarnation::broken(const Error& error) {
  spdlog::error("{}: can't be trusted any more, ending it: {}", name(), error.message());
  broken_detail_ = error.message();
  if (auto killed = sandbox_->kill(); !killed)
    spdlog::error("{}: kill: {}", name(), killed.error().message());
}

void Incarnation::end() {
  stop_helpers();
  bool killed = false;
  bool ordered = false;
  {
    std::lock_guard lock(mutex_);
    killed = killed_;
    ordered = !kill_orders_.empty();
  }
  if (auto* ended = std::get_if<Ended>(&origin_)) {
    if (!killed && !deliver_exit(ended->report)) return;
  } else if (killed) {
    if (ordered) last_words();
  } else if (up_ && !moved_away_) {
    if (!deliver_exit(exit_report())) return;
  }
  remove_all();
}

// Killed by order: its last output is wanted if that can be had at once.
void Incarnation::last_words() {
  if (!sandbox_ || !output_ || moved_away_) return;
  if (auto status = sandbox_->kill(); !status) return;
  CancelToken never;
  (void)output_->flush_all(never, kLastWords);
}

pb::ExitReport Incarnation::exit_report() {
  pb::ExitReport report = make_exit_report(order_, sandbox_->exit().value_or(SandboxExit{}));
  if (!broken_detail_.empty()) {
    report.set_cause("lost");
    report.set_detail(broken_detail_);
  }
  spdlog::info("{}: {} with code {}", name(), report.cause(), report.code());
  return report;
}

// False when the agent leaves before the controller has taken the report: the next agent brings it.
bool Incarnation::deliver_exit(pb::ExitReport report) {
  if (!record_.exit_report())
    if (auto saved = record_.save_exit(report); !saved)
      spdlog::warn("{}: {}", name(), saved.error().message());
  (void)fault("agent.exit.before_report");
  while (!node_.registered.wait_for(kFirstRetry))
    if (cancel_.cancelled()) break;
  if (ship_last_output(report)) {
    auto retry = kFirstRetry;
    for (;;) {
      const Status told = node_.controller.report_exit(report, cancel_);
      if (is_answer(told)) {
        if (!told) spdlog::warn("{}: exit report: {}", name(), told.error().message());
        return true;
      }
      if (cancel_.wait_for(retry)) break;
      retry = std::min(retry * 2, kLastRetry);
    }
  }
  std::lock_guard lock(mutex_);
  return killed_;
}

// True when the exit may be reported: the controller has all of the output, or wants none.
bool Incarnation::ship_last_output(pb::ExitReport& report) {
  if (!output_) {
    const auto file = record_.sandbox_directory() / "io/output";
    output_ = std::make_unique<OutputShipper>(node_.controller, job(), generation(), file);
    if (auto started = output_->start(); !started) {
      spdlog::warn("{}: its output is gone: {}", name(), started.error().message());
      report.set_detail("its last output is gone");
      report.set_output_bytes(0);
      output_.reset();
      return true;
    }
  }
  const Status flushed = output_->flush_all(cancel_);
  if (flushed || flushed.error().code() == ErrorCode::StaleGeneration) return true;
  if (flushed.error().code() == ErrorCode::Cancelled) return false;
  report.set_detail(flushed.error().message());
  report.set_output_bytes(0);
  return true;
}

void Incarnation::remove_all() {
  output_.reset();
  entry_->relay.store(nullptr);
  if (sandbox_) {
    if (auto status = sandbox_->kill(); !status)
      spdlog::error("{}: kill: {}", name(), status.error().message());
  }
  std::vector<std::uint64_t> orders;
  {
    std::lock_guard lock(mutex_);
    killable_.reset();
    if (killer_.joinable()) killer_.join();
  }
  sandbox_.reset();
  std::error_code error;
  if (std::filesystem::exists(record_.sandbox_directory(), error))
    if (auto status = node_.sandboxes.remove(record_.sandbox_directory()); !status)
      spdlog::warn("{}: {}", name(), status.error().message());
  if (auto status = record_.remove(); !status)
    spdlog::warn("{}: {}", name(), status.error().message());
  node_.roster.remove(entry_.get());
  {
    std::lock_guard lock(mutex_);
    orders = std::exchange(kill_orders_, {});
    finished_ = true;
  }
  finished_.notify_all();
  for (std::uint64_t order : orders) answer(order, {});
  for (std::uint64_t order : std::exchange(releases_, {})) answer(order, {});
}

}  // namespace baton::agent
