// An event that tells what a user did to a checkpoint.
#pragma once

#include <string>

#include "base/clock.h"
#include "core/events.h"
#include "core/records.h"
#include "wire/baton.pb.h"

namespace baton::control {

inline v1::Event user_event(const core::JobRecord& job, CheckpointNumber number, std::string text) {
  v1::Event event;
  event.set_at_wall_ms(wall_time_ms());
  event.set_kind(core::event::kUser);
  event.set_job_id(job.id.value);
  event.set_job_name(job.name);
  event.set_text(std::move(text));
  event.set_checkpoint(number.value);
  return event;
}

}  // namespace baton::control
