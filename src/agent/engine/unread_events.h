// Events that inotify descriptors of a job hold and nobody has read yet. CRIU does not carry them,
// so a freeze that finds some is ended, and the checkpoint taken again when the job has had a
// chance to read them. Internal to the engine.
#pragma once

#include <filesystem>

#include "agent/engine/writers.h"

namespace baton::agent {

// Of one sandbox. Used by one thread at a time.
class UnreadEvents {
 public:
  explicit UnreadEvents(const std::filesystem::path& /* needs no folder */) {}

  // `processes` stand still. Whether to let them go and come back: not for ever, and after a
  // program that did not read its events, not before it was seen without.
  bool worth_another_try(const Processes& processes);

 private:
  int tries_ = 0;  // in a row
};

}  // namespace baton::agent
