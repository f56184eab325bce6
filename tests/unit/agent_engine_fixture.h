// Real sandboxes and a real CRIU for the engine's tests. Needs root and a CRIU prefix
// (BATON_CRIU_PREFIX, else "criu" beside the test program); skipped, with the reason, without.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "agent/engine/engine.h"
#include "agent/sandbox.h"

namespace baton::agent {

class EngineTest : public testing::Test {
 protected:
  void SetUp() override;
  void TearDown() override;

  // A sandbox over `base_`, created for a restore if `plan` is given. Ended when the test is.
  Result<Sandbox*> make_sandbox(const RestorePlan* plan = nullptr);
  // One in which `statework NAME` runs and has printed a few lines.
  Sandbox* start_workload(const std::string& name);
  Sandbox* start_command(const std::vector<std::string>& argv);
  // prepare(), make_sandbox(), restore().
  Result<Sandbox*> restore(const std::filesystem::path& checkpoint,
                           const RestoreOptions& options = {});

  // Kills all sandboxes made so far and removes them.
  void end_sandboxes();
  std::filesystem::path next_checkpoint();
  static std::string output(const Sandbox& sandbox);
  // Waits until the output has grown by `lines` lines from `from` bytes.
  static void await_lines(const Sandbox& sandbox, int lines, std::uint64_t from = 0);
  static SandboxExit await_end(const Sandbox& sandbox);
  // Asks the workload to end and checks that its numbers, over all incarnations, have no gap and
  // no double. `before`: the output up to the last checkpoint.
  static void expect_whole(Sandbox& sandbox, const std::string& before);

  std::filesystem::path directory_;
  std::filesystem::path base_ = "/";
  std::unique_ptr<Engine> engine_;
  std::string log_tail_;

 private:
  std::vector<std::unique_ptr<Sandbox>> sandboxes_;
  std::uint64_t generation_ = 0;
  int checkpoints_ = 0;
};

std::filesystem::path program_directory();  // where the workloads were built

}  // namespace baton::agent
