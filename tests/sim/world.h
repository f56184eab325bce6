// What is really the case, which neither controller nor agents can see whole: which sandboxes run,
// and what each job has printed. Checks the promises at each change.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "core/messages.h"
#include "kernel.h"

namespace baton::sim {

// Who printed how many bytes, in order. Two programs that took different ways differ in it.
struct Output {
  std::vector<std::pair<Generation, std::uint64_t>> runs;

  std::uint64_t size() const;
  void append(Generation by, std::uint64_t bytes);
  void truncate(std::uint64_t bytes);
  // Appends what `other` has beyond our size.
  void extend_from(const Output& other);
  bool is_prefix_of(const Output& other) const;
  std::string describe() const;
  friend bool operator==(const Output&, const Output&) = default;
};

struct StoredCheckpoint {
  core::CheckpointFacts facts;
  Output output;
  bool damaged = false;
};

enum class Life { Starting, Running, Frozen, Held, Ended };

struct Sandbox {
  JobId job;
  Generation generation;
  NodeId node;
  Life life = Life::Starting;
  Output output;
  TimeUs running_since = 0;
  double deadline_local_us = 0;  // the lease's, on the node's clock; held by pid 1
  bool dying = false;            // the deadline has passed; nothing stops the end any more
  std::uint64_t busy = 0;        // changes whenever an operation on it is void
  CheckpointNumber held_in;
  core::ExitCause cause = core::ExitCause::Lost;
  int code = 0;
};
using SandboxPtr = std::shared_ptr<Sandbox>;

class World {
 public:
  explicit World(Kernel& kernel) : kernel_(kernel) {}

  // Each change of a sandbox's life goes through here.
  void set_life(Sandbox& sandbox, Life life);
  void add(const SandboxPtr& sandbox);
  // Brings `output` up to now.
  void accrue(Sandbox& sandbox);
  std::vector<SandboxPtr> running(JobId job) const;

  // The controller ordered this generation to be started or restored.
  void launched(JobId job, Generation generation);

  std::map<JobId, std::map<CheckpointNumber, StoredCheckpoint>> checkpoints;
  Weather weather;

 private:
  static bool may_run(Life life) { return life == Life::Starting || life == Life::Running; }

  Kernel& kernel_;
  std::map<JobId, std::vector<SandboxPtr>> sandboxes_;
  std::map<JobId, std::uint64_t> newest_generation_;
};

}  // namespace baton::sim
