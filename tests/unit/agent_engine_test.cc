#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/stat.h>

#include "agent_engine_fixture.h"
#include "sys/file.h"

namespace baton::agent {
namespace {

using testing::HasSubstr;
using testing::Not;

class Workload : public EngineTest, public testing::WithParamInterface<const char*> {};

// Twice, so that what a restore leaves behind is dumped as well.
TEST_P(Workload, SurvivesTwoMoves) {
  Sandbox* sandbox = start_workload(GetParam());
  ASSERT_NE(sandbox, nullptr);
  std::string printed;
  for (int move = 0; move < 2; ++move) {
    auto checkpoint = next_checkpoint();
    auto info = engine_->checkpoint(*sandbox, checkpoint);
    ASSERT_TRUE(info) << info.error().message();
    await_lines(*sandbox, 3, info->output_bytes);
    ASSERT_TRUE(sandbox->kill());
    printed += output(*sandbox).substr(printed.size(), info->output_bytes - printed.size());
    auto restored = restore(checkpoint);
    ASSERT_TRUE(restored) << restored.error().message() << "\n" << log_tail_;
    sandbox = *restored;
    await_lines(*sandbox, 10, info->output_bytes);
  }
  expect_whole(*sandbox, printed);
}

INSTANTIATE_TEST_SUITE_P(Engine, Workload,
                         testing::Values("counter", "memory", "threads", "pipes", "unix", "tcp",
                                         "shm", "deleted", "events", "inotify", "locks", "files",
                                         "calls", "attributes"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace baton::agent
