#include "agent_engine_fixture.h"

#include <poll.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <sstream>

#include "base/clock.h"
#include "base/fd.h"
#include "sys/file.h"

namespace baton::agent {
namespace {

namespace fs = std::filesystem;

constexpr int wait_limit_ms = 20'000;

fs::path build_directory() { return fs::read_symlink("/proc/self/exe").parent_path(); }

fs::path criu_prefix() {
  if (const char* named = std::getenv("BATON_CRIU_PREFIX")) return named;
  return build_directory() / "criu";
}

}  // namespace

fs::path program_directory() { return build_directory() / "programs"; }

void EngineTest::SetUp() {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root";
  if (!fs::exists(criu_prefix() / "bin" / "criu"))
    GTEST_SKIP() << "no CRIU in " << criu_prefix() << ": run scripts/provision-criu";
  // Not /tmp: it may be a tmpfs, and jobs get a view of it.
  std::string pattern = "/var/tmp/baton-engine-XXXXXX";
  ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
  directory_ = pattern;
  auto engine = make_engine({.cache_directory = directory_ / "cache"});
  ASSERT_TRUE(engine) << engine.error().message();
  engine_ = std::move(*engine);
}

void EngineTest::end_sandboxes() {
  for (auto& sandbox : sandboxes_) {
    if (auto killed = sandbox->kill(); !killed) ADD_FAILURE() << killed.error().message();
    auto place = sandbox->spec().directory;
    sandbox.reset();
    if (auto removed = Sandbox::remove(place); !removed) ADD_FAILURE() << removed.error().message();
  }
  sandboxes_.clear();
}

void EngineTest::TearDown() {
  end_sandboxes();
  if (directory_.empty()) return;
  if (auto removed = sys::remove_tree(directory_); !removed)
    ADD_FAILURE() << removed.error().message();
}

Result<Sandbox*> EngineTest::make_sandbox(const RestorePlan* plan) {
  SandboxSpec spec;
  spec.job = JobId(7);
  spec.generation = Generation(++generation_);
  spec.directory = directory_ / fmt::format("sandbox-{}", generation_);
  spec.base = base_;
  spec.criu_prefix = criu_prefix();
  spec.hostname = "engine-test";
  spec.criu_kdat_cache = directory_ / "kdat";
  if (plan) {
    spec.overlay_paths = plan->overlay_paths;
    spec.populate_uppers = plan->populate_uppers;
  }
  BATON_TRY(auto sandbox, Sandbox::create(spec));
  return sandboxes_.emplace_back(std::move(sandbox)).get();
}

Sandbox* EngineTest::start_command(const std::vector<std::string>& argv) {
  auto sandbox = make_sandbox();
  if (!sandbox) {
    ADD_FAILURE() << sandbox.error().message();
    return nullptr;
  }
  CommandSpec command;
  command.argv = argv;
  command.env = {{"PATH", "/usr/local/bin:/usr/bin:/bin"}};
  if (auto started = (*sandbox)->start(command); !started) {
    ADD_FAILURE() << started.error().message();
    return nullptr;
  }
  return *sandbox;
}

Sandbox* EngineTest::start_workload(const std::string& name) {
  Sandbox* sandbox = start_command({program_directory() / "statework", name});
  if (sandbox) await_lines(*sandbox, 5);
  return sandbox;
}

Result<Sandbox*> EngineTest::restore(const fs::path& checkpoint, const RestoreOptions& options) {
  BATON_TRY(RestorePlan plan, engine_->prepare(checkpoint, base_));
  BATON_TRY(Sandbox * sandbox, make_sandbox(&plan));
  BATON_CHECK(engine_->restore(*sandbox, checkpoint, options, &log_tail_));
  return sandbox;
}

fs::path EngineTest::next_checkpoint() {
  return directory_ / fmt::format("checkpoint-{}", checkpoints_++);
}

std::string EngineTest::output(const Sandbox& sandbox) {
  auto content = sys::read_file(sandbox.output_file());
  return content ? *content : std::string();
}

void EngineTest::await_lines(const Sandbox& sandbox, int lines, std::uint64_t from) {
  Fd watcher(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  ::inotify_add_watch(watcher.get(), sandbox.output_file().parent_path().c_str(),
                      IN_MODIFY | IN_CREATE);
  const std::int64_t deadline_ms = boot_time_ms() + wait_limit_ms;
  for (;;) {
    std::string text = output(sandbox);
    auto seen = text.size() > from
                    ? std::count(text.begin() + static_cast<std::ptrdiff_t>(from), text.end(), '\n')
                    : 0;
    if (seen >= lines) return;
    pollfd waiting[2] = {{watcher.get(), POLLIN, 0}, {sandbox.ended_fd(), POLLIN, 0}};
    if (boot_time_ms() >= deadline_ms || ::poll(waiting, 2, wait_limit_ms) <= 0 ||
        waiting[1].revents) {
      ADD_FAILURE() << "output did not grow; it is " << text.size() << " bytes and ends with: "
                    << text.substr(text.size() - std::min<std::size_t>(text.size(), 300));
      return;
    }
    char events[4096];
    while (::read(watcher.get(), events, sizeof events) > 0) {
    }
  }
}

SandboxExit EngineTest::await_end(const Sandbox& sandbox) {
  pollfd waiting{sandbox.ended_fd(), POLLIN, 0};
  if (::poll(&waiting, 1, wait_limit_ms) <= 0) {
    ADD_FAILURE() << "the sandbox does not end";
    return {};
  }
  return sandbox.exit().value_or(SandboxExit{});
}

void EngineTest::expect_whole(Sandbox& sandbox, const std::string& before) {
  ASSERT_TRUE(sandbox.signal(SIGTERM));
  SandboxExit end = await_end(sandbox);
  std::string text = before + output(sandbox).substr(before.size());
  EXPECT_EQ(end.kind, SandboxExit::Kind::Exited);
  EXPECT_EQ(end.code, 0) << text.substr(text.size() - std::min<std::size_t>(text.size(), 300));
  std::istringstream lines(text);
  long expected = 0;
  for (std::string line; std::getline(lines, line) && line != "END"; ++expected)
    ASSERT_EQ(line, std::to_string(expected));
  EXPECT_GT(expected, 10);
}

}  // namespace baton::agent
