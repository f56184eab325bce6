#include "control/pins.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "control/retention.h"
#include "control/user_event.h"
#include "control/validate.h"

namespace baton::control {
namespace {

constexpr int kMaxPins = 64;
constexpr const char* kDefaultName = "pinned";

// Applies `change` to the checkpoint's description and waits until that is saved.
template <typename Change>
Result<v1::Checkpoint> change_pins(ServiceContext& context, const v1::CheckpointRef& ref,
                                   std::stop_token stop, Change change) {
  BATON_CHECK(context.loop.check_room());
  v1::Checkpoint view;
  auto ticket = context.loop.with_lock([&](Loop::Locked& l) -> Result<Ticket> {
    BATON_TRY(auto key, l.state.find_checkpoint(ref));
    v1::Checkpoint changed = l.state.jobs.at(key.first).checkpoints.at(key.second);
    const core::JobRecord& record = *l.state.core.find_job(key.first);
    BATON_TRY(std::string what, change(changed));
    Loop::Extra extra;
    extra.changes.checkpoints.push_back({key.first, changed});
    extra.changes.events.push_back(
        user_event(record, key.second, fmt::format("{}: a user {}", record.name, what)));
    l.state.jobs.at(key.first).checkpoints.at(key.second) = changed;
    view = l.state.checkpoint_view(key.first, changed);
    return l.apply(core::Tick{}, std::move(extra)).ticket;
  });
  if (!ticket) return fail(ticket.error());
  BATON_CHECK(context.loop.wait_saved(*ticket, stop));
  return view;
}

}  // namespace

Result<v1::Checkpoint> pin(ServiceContext& context, const v1::PinRequest& request,
                           std::stop_token stop) {
  const std::string name = request.name().empty() ? kDefaultName : request.name();
  BATON_CHECK(check_pin_name(name));
  return change_pins(
      context, request.checkpoint(), stop, [&](v1::Checkpoint& info) -> Result<std::string> {
        if (std::ranges::find(info.pins(), name) == info.pins().end()) {
          if (info.pins_size() >= kMaxPins)
            return fail(ErrorCode::FailedPrecondition,
                        fmt::format("checkpoint {} has {} pins already", info.number(), kMaxPins));
          info.add_pins(name);
        }
        return fmt::format("pinned checkpoint {} ({})", info.number(), name);
      });
}

Result<v1::Checkpoint> unpin(ServiceContext& context, const v1::UnpinRequest& request,
                             std::stop_token stop) {
  const std::string& name = request.name();
  auto take_away = [&](v1::Checkpoint& info) -> Result<std::string> {
    auto& pins = *info.mutable_pins();
    if (pins.empty())
      return fail(ErrorCode::NotFound, fmt::format("checkpoint {} is not pinned", info.number()));
    auto found = std::ranges::find(pins, name);
    if (!name.empty() && found == pins.end())
      return fail(ErrorCode::NotFound,
                  fmt::format("checkpoint {} has no pin \"{}\"; its pins are: {}", info.number(),
                              name, fmt::join(pins, ", ")));
    const std::string gone = name.empty() ? fmt::format("{}", fmt::join(pins, ", ")) : name;
    if (name.empty())
      pins.Clear();
    else
      pins.erase(found);
    return fmt::format("unpinned checkpoint {} ({})", info.number(), gone);
  };
  BATON_TRY(auto info, change_pins(context, request.checkpoint(), stop, take_away));
  retire_checkpoints(context.loop, JobId(info.job_id()));
  return info;
}

}  // namespace baton::control
