// The source's part of a migration: freeze, ship, hold still until told what to do.
//
// From the moment the result is sent, the target may run the job: the incarnation then either is
// released by the controller or ends (lease, kill, this process's death); it never resumes by
// itself.
#include "agent/incarnation.h"
#include "base/fault.h"
#include "base/log.h"
#include "sys/file.h"

namespace baton::agent {

void Incarnation::freeze(const pb::Order& order) {
  if (node_.criu_version.empty())
    return answer(order.order_id(), fail(ErrorCode::Unfit, node_.criu_problem));
  if (preflight_) preflight_->give_way();
  finish_shipment(true);
  schedule_->begun(node_.now_ns() / 1'000'000);
  hold_answered_ = false;
  releases_.clear();
  auto directory = next_directory();
  auto info = [&]() -> Result<CheckpointInfo> {
    BATON_CHECK(sys::make_directories(record_.checkpoints(), 0700));
    BATON_CHECK(fault("agent.freeze.before_dump"));
    return node_.engine.checkpoint_and_hold(*sandbox_, directory, [&](const HeldCheckpoint& held) {
      return hold(order.order_id(), held, directory);
    });
  }();
  const bool was_held = entry_->state.exchange(pb::INCARNATION_RUNNING) == pb::INCARNATION_HELD;
  if (moved_away_) {
    spdlog::info("{}: released, it runs elsewhere now", name());
    return;  // end() removes what is left and answers the release
  }
  if (!info && !sandbox_->is_ending()) {
    if (!hold_answered_) {
      checkpoint_failed(info.error(), order.order_id());
    } else if (info.error().code() == ErrorCode::Damaged) {
      broken(info.error());
    } else {
      spdlog::warn("{}: after the hold: {}", name(), info.error().message());
    }
  }
  (void)sys::remove_tree(directory);
  if (was_held && !sandbox_ended()) spdlog::info("{}: released, it runs on here", name());
  const Status resumed =
      sandbox_ended() ? Status(fail(ErrorCode::FailedPrecondition, "it ended")) : Status();
  for (std::uint64_t release : std::exchange(releases_, {})) answer(release, resumed);
}

HoldVerdict Incarnation::hold(std::uint64_t order_id, const HeldCheckpoint& held,
                              const std::filesystem::path& directory) {
  const std::int64_t frozen_since_ns = node_.now_ns() - held.info.frozen_us * 1'000;
  auto prepare = [&]() -> Status {
    BATON_CHECK(ship_held(held, directory));
    BATON_CHECK(fault("agent.freeze.before_arm"));
    BATON_CHECK(sandbox_->set_die_with_agent(true));
    return {};
  };
  if (Status ready = prepare(); !ready) {
    if (!held.confirm()) return HoldVerdict::Resume;  // another one is taken
    hold_answered_ = true;
    spdlog::warn("{}: not held: {}", name(), ready.error().message());
    // Nobody has been told that it may run elsewhere, so it runs on here.
    (void)sandbox_->set_die_with_agent(false);
    answer(order_id, std::move(ready));
    return HoldVerdict::Resume;
  }
  entry_->state = pb::INCARNATION_HELD;
  hold_answered_ = true;
  pb::OrderResult result;
  result.set_checkpoint(held_upload_.number.value);
  result.set_frozen_for_ms(static_cast<double>(node_.now_ns() - frozen_since_ns) / 1e6);
  spdlog::info("{}: held in checkpoint {}, frozen for {:.1f} ms so far", name(),
               held_upload_.number, result.frozen_for_ms());
  (void)fault("agent.freeze.before_result");
  answer(order_id, {}, std::move(result));
  const HoldVerdict verdict = await_release();
  if (verdict == HoldVerdict::Resume) (void)sandbox_->set_die_with_agent(false);
  return verdict;
}

Status Incarnation::ship_held(const HeldCheckpoint& held, const std::filesystem::path& directory) {
  Shipment shipment;
  shipment.info = held.info;
  shipment.description = describe(held.info, "migration");
  shipment.directory = directory;
  BATON_TRY(held_upload_, upload(shipment, true, held.confirm));
  output_->set_safe(held.info.output_bytes);
  return {};
}

// Resume only when the controller says so. If the incarnation ends meanwhile, the verdict does not
// matter any more.
HoldVerdict Incarnation::await_release() {
  for (;;) {
    while (auto event = take()) {
      if (auto* done = std::get_if<PreflightDone>(&*event)) preflight_done(done->status);
      auto* order = std::get_if<pb::Order>(&*event);
      if (!order) continue;
      if (order->what_case() == pb::Order::kRelease) {
        releases_.push_back(order->order_id());
        (void)fault("agent.release");
        moved_away_ = order->release().kill();
        return moved_away_ ? HoldVerdict::Kill : HoldVerdict::Resume;
      }
      answer(order->order_id(),
             fail(ErrorCode::FailedPrecondition, "it stands frozen for a migration"));
    }
    {
      std::lock_guard lock(mutex_);
      if (killed_ || leaving_) return HoldVerdict::Kill;
    }
    if (sandbox_ended()) return HoldVerdict::Kill;
    wait(-1);
  }
}

}  // namespace baton::agent
