// Streams that go on over a restart of the controller, without losing or doubling anything.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "base/result.h"
#include "cli/session.h"

namespace baton::cli {

// For all of these, an earlier call in this session must have reached the controller.

struct OutputOptions {
  std::string job;
  std::uint64_t offset = 0;
  bool follow = false;
  bool live = false;
};
// Writes a job's output to stdout. With follow, until the job has ended. Not live: each byte once,
// in order. Live: what a lost incarnation printed after its last checkpoint is superseded; stderr
// says where the output went back to.
Status follow_output(Session& session, const OutputOptions& options);

// Waits until the job has ended. timeout_ms 0: as long as it takes; else TimedOut.
Result<v1::Job> await_end(Session& session, const std::string& job, std::int64_t timeout_ms);

// What a shell would see: the job's own code, 128 + signal, or 125 (and a line on stderr) when
// Baton could not run it.
int exit_code_of(const v1::Job& job);

// Hands each event after `after` to `see` until it returns false or, without follow, until all
// have been seen.
Status follow_events(Session& session, const v1::EventsRequest& request,
                     const std::function<bool(const v1::Event&)>& see);

}  // namespace baton::cli
