// Plain processes (no sandbox), a real CRIU and the tracker. Needs root, a kernel with page
// tracking and a CRIU prefix (BATON_CRIU_PREFIX, else "criu" beside the test program).
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "agent/engine/tracker.h"
#include "criu/session.h"
#include "image_pages.h"
#include "sys/process.h"

namespace baton::agent {

class TrackerTest : public testing::Test {
 protected:
  void SetUp() override;
  void TearDown() override;

  // Starts `memwork` with these arguments and waits until it is ready.
  sys::Spawned start(std::vector<std::string> arguments);
  // Asks it to check all of its memory; true if that holds.
  bool checks_out(pid_t pid);
  // Ends it and everything below it.
  void end(pid_t root);

  std::unique_ptr<Tracker> make_tracker(TrackerOptions options = {});
  // refresh, precopy, CRIU's dump without tracked memory, copy_rest in its last hook, assemble.
  Status checkpoint(Tracker& tracker, pid_t root, const std::filesystem::path& images,
                    const std::function<Status()>& in_freeze = {});
  // A stock dump of everything.
  Status full_dump(pid_t root, const std::filesystem::path& images);
  Result<pid_t> restore(const std::filesystem::path& images);

  std::filesystem::path make_directory(const std::string& name);
  static bool have_criu();

  std::filesystem::path directory_;
  std::vector<pid_t> roots_;  // ended by TearDown
  PrecopyStats precopy_;      // of the last checkpoint

 private:
  int trackers_made_ = 0;
  static Status assemble(Tracker& tracker, const std::vector<FrozenMemory>& memory,
                         const std::filesystem::path& images);
  Status with_criu(bool hide, const std::function<Status(criu::Session&)>& work);
  std::filesystem::path result_file() const { return directory_ / "result"; }
};

}  // namespace baton::agent
