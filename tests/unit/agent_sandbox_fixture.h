// Real sandboxes for tests: a folder of their own, an end for each, and a look at what is left.
#pragma once

#include <dirent.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "agent/sandbox.h"
#include "base/clock.h"
#include "sys/cgroup.h"
#include "sys/file.h"
#include "sys/mounts.h"
#include "sys/process.h"

namespace baton::agent {

inline std::size_t open_descriptors() {
  std::size_t count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/fd"))
    ++count;
  return count;
}

class SandboxTest : public testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root: it makes namespaces and mounts";
    char name[] = "/tmp/baton-sandbox-XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    folder_ = name;
    const auto on_overlay = sys::is_on_overlay(folder_);
    if (!on_overlay || *on_overlay)
      GTEST_SKIP() << folder_ << " is on an overlay, which can't hold the upper layer of another";
    checked_ = true;
    descriptors_before_ = open_descriptors();
  }

  void TearDown() override {
    if (folder_.empty()) return;
    sandboxes_.clear();
    for (const auto& entry : std::filesystem::directory_iterator(folder_)) {
      if (!entry.path().filename().string().starts_with("job")) continue;
      if (auto running = Sandbox::adopt(entry.path())) {
        EXPECT_TRUE((*running)->kill());
      }
      const Status removed = Sandbox::remove(entry.path());
      EXPECT_TRUE(removed) << removed.error().message();
      EXPECT_FALSE(std::filesystem::exists(entry.path()));
    }
    if (group_) {
      const Status removed = group_->remove();
      EXPECT_TRUE(removed) << removed.error().message();
    }
    EXPECT_TRUE(sys::remove_tree(folder_));
    if (!checked_) return;
    EXPECT_EQ(sys::read_file("/proc/self/mountinfo").value_or("?").find(folder_.string()),
              std::string::npos)
        << "a mount was left behind";
    EXPECT_EQ(open_descriptors(), descriptors_before_) << "a descriptor was left behind";
    EXPECT_EQ(::waitpid(-1, nullptr, WNOHANG), -1) << "a process was left behind";
  }

  SandboxSpec spec() {
    SandboxSpec spec;
    spec.job = JobId(7);
    spec.generation = Generation(++generation_);
    spec.directory = folder_ / ("job" + std::to_string(generation_));
    spec.base = "/";
    spec.hostname = "sandbox-test";
    return spec;
  }

  static CommandSpec shell(const std::string& script) {
    CommandSpec command;
    command.argv = {"/bin/sh", "-c", script};
    return command;
  }

  // Gives it a control group whose parent ends with the test. Unfit: they can't be made here.
  Status put_in_group(SandboxSpec* spec) {
    const std::filesystem::path path = "/baton-test-" + std::to_string(::getpid());
    BATON_TRY(group_, sys::Cgroup::create(path));
    spec->cgroup_parent = path;
    // Groups may exist without the controllers that limits need.
    BATON_CHECK(group_->set_cpu_quota(0));
    return group_->set_memory_limit(0);
  }

  // Creates one that ends with the test at the latest.
  Sandbox* create(const SandboxSpec& spec) {
    auto sandbox = Sandbox::create(spec);
    EXPECT_TRUE(sandbox) << sandbox.error().message();
    if (!sandbox) return nullptr;
    sandboxes_.push_back(std::move(*sandbox));
    return sandboxes_.back().get();
  }

  Sandbox* run(const CommandSpec& command) { return run(command, spec()); }
  Sandbox* run(const CommandSpec& command, const SandboxSpec& spec) {
    Sandbox* sandbox = create(spec);
    if (sandbox == nullptr) return nullptr;
    const Status started = sandbox->start(command);
    EXPECT_TRUE(started) << started.error().message();
    return started ? sandbox : nullptr;
  }

  static SandboxExit await(const Sandbox& sandbox) {
    pollfd ended{sandbox.ended_fd(), POLLIN, 0};
    EXPECT_EQ(::poll(&ended, 1, 30'000), 1) << "it did not end";
    const auto exit = sandbox.exit();
    EXPECT_TRUE(exit);
    return exit.value_or(SandboxExit{});
  }

  static std::string output(const Sandbox& sandbox) {
    return sys::read_file(sandbox.output_file()).value_or("?");
  }

  // The output once it holds `text`; the command is expected to print it by itself.
  static std::string await_output(const Sandbox& sandbox, const std::string& text) {
    for (int i = 0; i < 3000; ++i) {
      const std::string now = output(sandbox);
      if (now.find(text) != std::string::npos) return now;
      ::usleep(10'000);
    }
    ADD_FAILURE() << "no \"" << text << "\" in: " << output(sandbox);
    return output(sandbox);
  }

  // Runs a command to its end and returns what it printed.
  std::string printed_by(const CommandSpec& command, int expected_code = 0) {
    const Sandbox* sandbox = run(command);
    if (sandbox == nullptr) return "?";
    EXPECT_EQ(await(*sandbox).code, expected_code) << output(*sandbox);
    return output(*sandbox);
  }

  // In a process with a mount namespace of its own, so that the test may mount things. Failures
  // there are printed by it and counted here.
  template <typename Body>
  void in_mount_namespace(Body body) {
    const pid_t child = ::fork();
    if (child == 0) {
      if (::unshare(CLONE_NEWNS) != 0) ::_exit(2);
      body();
      sandboxes_.clear();
      ::_exit(HasFailure() ? 1 : 0);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0) << "see above";
  }

  std::filesystem::path folder_;
  std::optional<sys::Cgroup> group_;
  std::uint64_t generation_ = 0;
  std::vector<std::unique_ptr<Sandbox>> sandboxes_;

 private:
  bool checked_ = false;
  std::size_t descriptors_before_ = 0;
};

}  // namespace baton::agent
