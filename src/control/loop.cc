#include "control/loop.h"

#include <algorithm>
#include <iterator>

#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"

namespace baton::control {
namespace {

constexpr std::chrono::milliseconds kSaveAgainAfter{500};
constexpr core::TimeMs kLongestSleepMs = 3'600'000;

template <typename T>
void append(std::vector<T>& to, std::vector<T>& from) {
  to.insert(to.end(), std::make_move_iterator(from.begin()), std::make_move_iterator(from.end()));
}

void append(Changes& to, Changes& from) {
  append(to.jobs, from.jobs);
  append(to.nodes, from.nodes);
  append(to.checkpoints, from.checkpoints);
  append(to.removed_checkpoints, from.removed_checkpoints);
  append(to.moves, from.moves);
  append(to.events, from.events);
  append(to.removed_jobs, from.removed_jobs);
  if (from.next_job_id) to.next_job_id = from.next_job_id;
}

Error cancelled() { return Error(ErrorCode::Cancelled, "cancelled"); }

}  // namespace

Loop::Loop(State state, Stores stores)
    : stores_(stores),
      state_(std::move(state)),
      saver_([this](std::stop_token stop) { save_loop(stop); }),
      ticker_([this](std::stop_token stop) { tick_loop(stop); }) {}

Loop::~Loop() {
  ticker_.request_stop();
  ticker_.join();
  saver_.request_stop();
  saver_.join();
}

core::TimeMs Loop::advance_time() { return last_time_ = std::max(last_time_, boot_time_ms()); }

void Loop::tick_loop(std::stop_token stop) {
  std::unique_lock lock(mutex_);
  while (!stop.stop_requested()) {
    core::TimeMs now = advance_time();
    core::TimeMs next = state_.core.next_deadline();
    if (next <= now) {
      Locked(*this, now).apply(core::Tick{});
      next = state_.core.next_deadline();
    }
    ticking_at_ = std::min(next, now + kLongestSleepMs);
    auto sleep = std::chrono::milliseconds(std::max<core::TimeMs>(ticking_at_ - now, 1));
    deadline_.wait_for(lock, stop, sleep,
                       [&] { return state_.core.next_deadline() < ticking_at_; });
  }
}

void Loop::save_loop(std::stop_token stop) {
  std::unique_lock lock(mutex_);
  for (;;) {
    unsaved_.wait(lock, stop, [&] { return !pending_.empty(); });
    if (pending_.empty()) return;
    std::deque<Batch> batches = std::exchange(pending_, {});
    lock.unlock();
    Changes changes;
    std::vector<Action> actions;
    for (auto& batch : batches) {
      append(changes, batch.changes);
      append(actions, batch.actions);
    }
    Ticket last = batches.back().ticket;
    if (!save_until_done(changes, last, stop)) return;
    for (auto& event : changes.events) stores_.events.append(std::move(event));
    for (const auto& action : actions)
      std::visit([this](const auto& specific) { execute(specific); }, action);
    lock.lock();
    saved_through_ = last;
    saved_.notify_all();
  }
}

// False: the loop is to stop and the changes are still not saved.
bool Loop::save_until_done(Changes& changes, Ticket last, std::stop_token stop) {
  bool failed = false;
  for (;;) {
    Status status = save(changes);
    std::unique_lock lock(mutex_);
    if (status) {
      save_error_.reset();
      lock.unlock();
      if (failed) {
        spdlog::info("the state is saved again");
        v1::Event event;
        event.set_kind("disk-ok");
        event.set_text("the controller can save its state again");
        stores_.events.append(std::move(event));
      }
      return true;
    }
    failed_through_ = last;
    save_error_ = status.error();
    saved_.notify_all();
    if (!failed) {
      spdlog::error("the state can't be saved: {}", status.error().message());
      v1::Event event;
      event.set_kind("disk-full");
      event.set_text(
          fmt::format("the controller can't save its state, so nothing is started or "
                      "moved: {}",
                      status.error().message()));
      lock.unlock();
      stores_.events.append(std::move(event));
      lock.lock();
    }
    failed = true;
    // A full disk announces nothing when it gets room again.
    saved_.wait_for(lock, stop, kSaveAgainAfter, [] { return false; });
    if (stop.stop_requested()) return false;
  }
}

Status Loop::save(Changes& changes) {
  auto attempt = [&]() -> Status {
    BATON_CHECK(fault("control.save"));
    return stores_.db.save(changes);
  };
  for (std::uint64_t sequence = stores_.events.next_sequence(); auto& event : changes.events)
    event.set_sequence(sequence++);
  Status status = attempt();
  if (!status && status.error().code() == ErrorCode::NoSpace && stores_.ballast.drop()) {
    spdlog::warn("the disk of the state is full; using the room set aside for this");
    status = attempt();
  }
  if (status && !changes.empty()) stores_.ballast.restore();
  return status;
}

Status Loop::wait_saved(Ticket ticket, std::stop_token stop) {
  std::unique_lock lock(mutex_);
  bool done = saved_.wait(lock, stop, [&] {
    return saved_through_ >= ticket || (failed_through_ >= ticket && save_error_);
  });
  if (saved_through_ >= ticket) return {};
  if (!done) return fail(cancelled());
  return fail(save_error_->context("the controller could not save this yet"));
}

Status Loop::check_room(std::uint64_t bytes) const {
  if (stores_.ballast.has_room(bytes)) return {};
  return fail(
      ErrorCode::NoSpace,
      "the controller's disk is full; nothing was changed. Make room in its data directory");
}

bool Loop::wait(std::stop_token stop, std::optional<core::TimeMs> deadline_boot_ms,
                const std::function<bool(Locked&)>& predicate) {
  std::unique_lock lock(mutex_);
  auto ready = [&] {
    Locked locked(*this, advance_time());
    return predicate(locked);
  };
  if (!deadline_boot_ms) {
    return saved_.wait(lock, stop, ready) && !stop.stop_requested();
  }
  auto left =
      std::chrono::milliseconds(std::max<core::TimeMs>(*deadline_boot_ms - boot_time_ms(), 0));
  return saved_.wait_for(lock, stop, left, ready) && !stop.stop_requested();
}

Status Loop::wait_cleaned(std::stop_token stop) {
  Ticket last = with_lock([&](Locked&) { return last_ticket_; });
  BATON_CHECK(wait_saved(last, stop));
  struct Done {
    std::mutex mutex;
    std::condition_variable_any changed;
    bool is = false;
  };
  auto done = std::make_shared<Done>();  // the cleaner may come to it after we are gone
  cleaner_.post([done] {
    std::lock_guard lock(done->mutex);
    done->is = true;
    done->changed.notify_all();
  });
  std::unique_lock lock(done->mutex);
  if (done->changed.wait(lock, stop, [&] { return done->is; })) return {};
  return fail(cancelled());
}

Loop::Request::Request(Loop& loop) : loop_(loop) {
  std::lock_guard lock(loop_.mutex_);
  id_ = loop_.next_request_++;
  loop_.answers_[id_];
}

Loop::Request::~Request() {
  std::lock_guard lock(loop_.mutex_);
  loop_.answers_.erase(id_);
}

bool Loop::wait_for_answer(std::stop_token stop, core::RequestId id,
                           const std::function<bool(const Answers&)>& ready) {
  std::unique_lock lock(mutex_);
  return saved_.wait(lock, stop, [&] { return ready(answers_[id]); });
}

Result<core::MoveFinished> Loop::Request::wait_move(std::stop_token stop) {
  Result<core::MoveFinished> result = fail(cancelled());
  loop_.wait_for_answer(stop, id_, [&](const Answers& answers) {
    if (answers.move) result = *answers.move;
    return answers.move.has_value();
  });
  return result;
}

Result<core::CheckpointFinished> Loop::Request::wait_checkpoint(std::stop_token stop) {
  Result<core::CheckpointFinished> result = fail(cancelled());
  loop_.wait_for_answer(stop, id_, [&](const Answers& answers) {
    if (answers.checkpoint) result = *answers.checkpoint;
    return answers.checkpoint.has_value();
  });
  return result;
}

}  // namespace baton::control
