#include "agent/incarnation.h"

#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>

#include "base/log.h"

namespace baton::agent {
namespace {

// Of a longer one (a long standard input) the controller has what it needs in its store, if there
// is a checkpoint.
constexpr std::size_t kReportedSpecBytes = 256 << 10;

std::int64_t to_ms(std::int64_t ns) { return ns / 1'000'000; }

}  // namespace

std::string describe(const pb::StartOrder& order) {
  return fmt::format("job {} ({}) generation {}", order.job_id(), order.spec().name(),
                     order.generation());
}

Incarnation::Incarnation(NodeContext& node, pb::StartOrder order, Origin origin,
                         std::vector<std::shared_ptr<Incarnation>> predecessors)
    : node_(node),
      order_(std::move(order)),
      origin_(std::move(origin)),
      predecessors_(std::move(predecessors)),
      entry_(std::make_shared<RosterEntry>()),
      record_(node.incarnations(), JobId(order_.job_id()), Generation(order_.generation())),
      wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  entry_->job = JobId(order_.job_id());
  entry_->generation = Generation(order_.generation());
  if (order_.spec().ByteSizeLong() <= kReportedSpecBytes) entry_->spec = order_.spec();
  const bool lives =
      std::holds_alternative<Adopt>(origin_) || std::holds_alternative<Ended>(origin_);
  entry_->state = lives ? pb::INCARNATION_RUNNING : pb::INCARNATION_STARTING;
  if (auto* adopt = std::get_if<Adopt>(&origin_)) take_sandbox(std::move(adopt->sandbox));
  node_.roster.add(entry_);
  thread_ = std::thread([this] { run(); });
}

Incarnation::~Incarnation() {
  {
    std::lock_guard lock(mutex_);
    leaving_ = true;
  }
  cancel_.cancel();
  push(Wake{});
  thread_.join();
  node_.roster.remove(entry_.get());
  if (killer_.joinable()) killer_.join();
}

std::string Incarnation::name() const { return agent::describe(order_); }

void Incarnation::push(Event event) {
  {
    std::lock_guard lock(mutex_);
    events_.push_back(std::move(event));
  }
  const std::uint64_t one = 1;
  (void)!::write(wake_.get(), &one, sizeof(one));
}

std::optional<Incarnation::Event> Incarnation::take() {
  std::lock_guard lock(mutex_);
  if (events_.empty()) return std::nullopt;
  Event event = std::move(events_.front());
  events_.pop_front();
  return event;
}

// Returns when there may be an event, when the sandbox has ended, or after the time.
void Incarnation::wait(std::int64_t timeout_ms) {
  pollfd fds[] = {{wake_.get(), POLLIN, 0}, {sandbox_ ? sandbox_->ended_fd() : -1, POLLIN, 0}};
  ::poll(fds, 2, static_cast<int>(std::clamp<std::int64_t>(timeout_ms, -1, 1 << 30)));
  std::uint64_t count = 0;
  (void)!::read(wake_.get(), &count, sizeof(count));
}

bool Incarnation::sandbox_ended() const {
  pollfd fd{sandbox_ ? sandbox_->ended_fd() : -1, POLLIN, 0};
  return ::poll(&fd, 1, 0) > 0;
}

void Incarnation::post(const pb::Order& order) { push(order); }

void Incarnation::kill(std::optional<std::uint64_t> order_id) {
  std::unique_lock lock(mutex_);
  if (finished_) {
    lock.unlock();
    if (order_id) answer(*order_id, {});
    return;
  }
  if (order_id) kill_orders_.push_back(*order_id);
  const bool first = !std::exchange(killed_, true);
  if (first && killable_)
    killer_ = std::thread([sandbox = killable_, name = name()] {
      if (auto status = sandbox->kill(); !status)
        spdlog::error("{}: kill: {}", name, status.error().message());
    });
  lock.unlock();
  cancel_.cancel();
  push(Wake{});
}

// From here on kill() and the lease reach it.
void Incarnation::take_sandbox(std::unique_ptr<Sandbox> sandbox) {
  sandbox_ = std::move(sandbox);
  auto relay = std::make_shared<LeaseRelay>(sandbox_);
  entry_->relay = relay;
  // Its deadline is of when its making began, and renewals that came meanwhile did not find it.
  relay->renew(node_.lease.deadline_ns());
  std::lock_guard lock(mutex_);
  killable_ = sandbox_;
}

void Incarnation::answer(std::uint64_t order_id, const Status& status, pb::OrderResult result) {
  if (order_id == 0) return;
  result.set_order_id(order_id);
  if (!status) {
    if (result.failure() == pb::FAILURE_NONE) result.set_failure(failure_kind(status.error()));
    result.set_error(status.error().message());
  }
  node_.send_result(result);
}

void Incarnation::run() {
  ::pthread_setname_np(::pthread_self(), fmt::format("job-{}", entry_->job).substr(0, 15).c_str());
  up_ = bring_up().has_value();
  if (up_) live();
  bool leaving = false;
  {
    std::lock_guard lock(mutex_);
    leaving = leaving_ && !killed_;
  }
  if (leaving && up_ && !sandbox_ended()) {
    stop_helpers();
  } else {
    end();
  }
  finished_ = true;
  finished_.notify_all();
  node_.finished();
}

void Incarnation::live() {
  for (;;) {
    if (!handle_events() || sandbox_ended()) return;
    const std::int64_t now_ms = to_ms(node_.now_ns());
    if (schedule_->due(now_ms) && !node_.criu_version.empty()) {
      if (shipment_) {
        spdlog::info("{}: checkpoint skipped, the previous one is still being shipped", name());
        schedule_->begun(now_ms);
      } else {
        checkpoint("interval", std::nullopt);
      }
      continue;
    }
    wait(schedule_->enabled() && !node_.criu_version.empty() ? schedule_->due_ms() - now_ms : -1);
  }
}

// False when the worker should stop: killed, or the agent leaves.
bool Incarnation::handle_events() {
  while (auto event = take()) {
    if (auto* order = std::get_if<pb::Order>(&*event)) {
      handle_order(*order);
    } else if (auto* shipped = std::get_if<ShipDone>(&*event)) {
      if (shipment_ && shipment_->id == shipped->shipment) finish_shipment(false);
    } else if (auto* done = std::get_if<PreflightDone>(&*event)) {
      preflight_done(done->status);
    }
    if (sandbox_ended()) break;
  }
  std::lock_guard lock(mutex_);
  return !killed_ && !leaving_ && !moved_away_ && broken_detail_.empty();
}

void Incarnation::handle_order(const pb::Order& order) {
  switch (order.what_case()) {
    case pb::Order::kSignal:
      answer(order.order_id(), sandbox_->signal(order.signal().signal()));
      break;
    case pb::Order::kCheckpoint:
      finish_shipment(false);
      checkpoint("user", order.order_id());
      break;
    case pb::Order::kFreeze: freeze(order); break;
    case pb::Order::kRelease:
      // Not held: it was resumed because shipping failed, which the controller has been told.
      answer(order.order_id(), order.release().kill()
                                   ? Status(fail(ErrorCode::FailedPrecondition, "it is not held"))
                                   : Status());
      break;
    default:
      answer(order.order_id(), fail(ErrorCode::Internal, "an order that this agent does not know"));
  }
}

}  // namespace baton::agent
