// Sandboxes, an engine and a controller that do as a test tells them; no kernel feature is used.
#pragma once

#include <sys/eventfd.h>
#include <unistd.h>

#include <condition_variable>
#include <fstream>
#include <functional>
#include <map>
#include <mutex>
#include <vector>

#include "agent/controller_link.h"
#include "agent/engine/engine.h"
#include "agent/factory.h"

namespace baton::fakes {

namespace fs = std::filesystem;
namespace pb = baton::v1;

class FakeSandbox : public agent::Sandbox {
 public:
  explicit FakeSandbox(agent::SandboxSpec spec) : spec_(std::move(spec)), ended_(::eventfd(0, 0)) {
    fs::create_directories(spec_.directory);
    std::ofstream(output_file(), std::ios::app).flush();
  }

  const agent::SandboxSpec& spec() const override { return spec_; }
  fs::path output_file() const override { return spec_.directory / "output"; }
  std::vector<std::pair<std::string, fs::path>> private_trees() const override { return {}; }
  fs::path images_directory() const override { return spec_.directory; }
  fs::path quick_images_directory() const override { return spec_.directory / "quick"; }
  Status start(const agent::CommandSpec& command) override {
    if (command.argv.empty() || command.argv[0] == "no-such-command")
      return fail(ErrorCode::NotFound, "no such command");
    return {};
  }
  Status adopt_restored(pid_t, pid_t) override { return {}; }
  Result<agent::CriuWorker> launch_criu(const std::vector<pid_t>&, agent::CriuIpc) override {
    return fail(ErrorCode::Unfit, "a fake");
  }
  pid_t root_pid_inner() const override { return 2; }
  pid_t command_pid_inner() const override { return 3; }
  pid_t init_pid() const override { return ::getpid(); }
  Result<std::vector<std::pair<pid_t, pid_t>>> processes() const override { return {}; }

  Status set_lease_deadline(std::int64_t deadline) override {
    std::lock_guard lock(mutex_);
    deadlines_.push_back(deadline);
    told_.notify_all();
    return {};
  }
  Status declare_unharmed() override { return {}; }
  Status set_die_with_agent(bool armed) override {
    std::lock_guard lock(mutex_);
    if (refuses_to_arm && armed) return fail(ErrorCode::Unavailable, "the sandbox has ended");
    dies_with_agent_ = armed;
    return {};
  }
  Result<std::unique_ptr<agent::SandboxGuard>> guard() override {
    return fail(ErrorCode::Unfit, "a fake");
  }
  Status signal(int number) override {
    std::lock_guard lock(mutex_);
    signals_.push_back(number);
    return {};
  }
  Status kill() override {
    end({agent::SandboxExit::Kind::Killed, 137, 0});
    return {};
  }
  int ended_fd() const override { return ended_.get(); }
  bool is_ending() const override { return exit().has_value(); }
  std::optional<agent::SandboxExit> exit() const override {
    std::lock_guard lock(mutex_);
    return exit_;
  }

  // What a test does to it and asks of it. Any thread.
  void end(agent::SandboxExit exit) {
    leave_word(exit);
    const std::uint64_t one = 1;
    (void)!::write(ended_.get(), &one, sizeof(one));
  }
  // Its end is near, and everything in it dies before that can be seen.
  void leave_word(agent::SandboxExit exit) {
    std::lock_guard lock(mutex_);
    if (!exit_) exit_ = exit;
  }
  void print(std::string_view text) {
    std::ofstream file(output_file(), std::ios::app | std::ios::binary);
    file << text;
  }
  std::vector<int> signals() const {
    std::lock_guard lock(mutex_);
    return signals_;
  }
  std::vector<std::int64_t> deadlines() const {
    std::lock_guard lock(mutex_);
    return deadlines_;
  }
  bool wait_for_deadline() {
    std::unique_lock lock(mutex_);
    return told_.wait_for(lock, std::chrono::seconds(10), [&] { return !deadlines_.empty(); });
  }
  bool dies_with_agent() const {
    std::lock_guard lock(mutex_);
    return dies_with_agent_;
  }
  std::atomic<bool> refuses_to_arm = false;

 private:
  const agent::SandboxSpec spec_;
  const Fd ended_;
  mutable std::mutex mutex_;
  std::optional<agent::SandboxExit> exit_;
  std::vector<int> signals_;
  std::vector<std::int64_t> deadlines_;
  std::condition_variable told_;
  bool dies_with_agent_ = false;
};

// Hands out FakeSandboxes that outlive the handle, as real ones outlive the agent.
class FakeSandboxes : public agent::SandboxFactory {
 public:
  Result<std::unique_ptr<agent::Sandbox>> create(const agent::SandboxSpec& spec) override;
  Result<std::unique_ptr<agent::Sandbox>> adopt(const fs::path& directory) override;
  Result<agent::SandboxExit> read_exit(const fs::path& directory) override;
  Status remove(const fs::path& directory) override;

  std::shared_ptr<FakeSandbox> at(const fs::path& directory) const {
    std::lock_guard lock(mutex_);
    auto found = sandboxes_.find(directory);
    return found == sandboxes_.end() ? nullptr : found->second;
  }
  std::vector<std::shared_ptr<FakeSandbox>> all() const {
    std::lock_guard lock(mutex_);
    std::vector<std::shared_ptr<FakeSandbox>> result;
    for (const auto& [path, sandbox] : sandboxes_) result.push_back(sandbox);
    return result;
  }

 private:
  mutable std::mutex mutex_;
  std::map<fs::path, std::shared_ptr<FakeSandbox>> sandboxes_;
};

// The handle the agent gets; the sandbox itself stays with the factory.
class FakeSandboxHandle : public agent::Sandbox {
 public:
  explicit FakeSandboxHandle(std::shared_ptr<FakeSandbox> real) : real_(std::move(real)) {}
  const agent::SandboxSpec& spec() const override { return real_->spec(); }
  fs::path output_file() const override { return real_->output_file(); }
  std::vector<std::pair<std::string, fs::path>> private_trees() const override { return {}; }
  fs::path images_directory() const override { return real_->images_directory(); }
  fs::path quick_images_directory() const override { return real_->quick_images_directory(); }
  Status start(const agent::CommandSpec& command) override { return real_->start(command); }
  Status adopt_restored(pid_t root, pid_t command) override {
    return real_->adopt_restored(root, command);
  }
  Result<agent::CriuWorker> launch_criu(const std::vector<pid_t>& pids,
                                        agent::CriuIpc ipc) override {
    return real_->launch_criu(pids, ipc);
  }
  pid_t root_pid_inner() const override { return 2; }
  pid_t command_pid_inner() const override { return 3; }
  pid_t init_pid() const override { return real_->init_pid(); }
  Result<std::vector<std::pair<pid_t, pid_t>>> processes() const override {
    return real_->processes();
  }
  Status set_lease_deadline(std::int64_t deadline) override {
    return real_->set_lease_deadline(deadline);
  }
  Status declare_unharmed() override { return real_->declare_unharmed(); }
  Status set_die_with_agent(bool armed) override { return real_->set_die_with_agent(armed); }
  Result<std::unique_ptr<agent::SandboxGuard>> guard() override { return real_->guard(); }
  Status signal(int number) override { return real_->signal(number); }
  Status kill() override { return real_->kill(); }
  int ended_fd() const override { return real_->ended_fd(); }
  bool is_ending() const override { return real_->is_ending(); }
  std::optional<agent::SandboxExit> exit() const override { return real_->exit(); }

 private:
  const std::shared_ptr<FakeSandbox> real_;
};

inline Result<std::unique_ptr<agent::Sandbox>> FakeSandboxes::create(
    const agent::SandboxSpec& spec) {
  auto sandbox = std::make_shared<FakeSandbox>(spec);
  if (spec.populate_uppers) BATON_CHECK(spec.populate_uppers({}));
  std::lock_guard lock(mutex_);
  sandboxes_[spec.directory] = sandbox;
  return std::make_unique<FakeSandboxHandle>(sandbox);
}

inline Result<std::unique_ptr<agent::Sandbox>> FakeSandboxes::adopt(const fs::path& directory) {
  auto sandbox = at(directory);
  if (!sandbox || sandbox->exit()) return fail(ErrorCode::NotFound, "its pid 1 is gone");
  return std::make_unique<FakeSandboxHandle>(sandbox);
}

inline Result<agent::SandboxExit> FakeSandboxes::read_exit(const fs::path& directory) {
  auto sandbox = at(directory);
  if (!sandbox || !sandbox->exit()) return fail(ErrorCode::NotFound, "no exit");
  return *sandbox->exit();
}

inline Status FakeSandboxes::remove(const fs::path& directory) {
  std::lock_guard lock(mutex_);
  sandboxes_.erase(directory);
  fs::remove_all(directory);
  return {};
}

// Writes one small file as a checkpoint.
class FakeEngine : public agent::Engine {
 public:
  std::function<Status()> on_checkpoint = [] { return Status(); };
  std::function<Status(const agent::RestoreOptions&)> on_restore =
      [](const agent::RestoreOptions&) { return Status(); };
  std::string shape = "file";
  std::atomic<int> checkpoints = 0;
  std::atomic<int> at_once = 0;
  std::atomic<int> most_at_once = 0;
  std::atomic<int> restores = 0;
  std::atomic<int> preflights = 0;
  std::atomic<int> built_on = 0;
  std::atomic<int> copied_anew = 0;
  std::atomic<int> mistakes = 0;  // so many held checkpoints are found to be wrong

  Result<agent::CheckpointInfo> checkpoint(agent::Sandbox& sandbox,
                                           const fs::path& directory) override {
    most_at_once = std::max<int>(most_at_once, ++at_once);
    auto result = write(sandbox, directory);
    --at_once;
    return result;
  }

  Result<agent::CheckpointInfo> checkpoint_and_hold(
      agent::Sandbox& sandbox, const fs::path& directory,
      const std::function<agent::HoldVerdict(const agent::HeldCheckpoint&)>& while_frozen)
      override {
    for (;;) {
      auto info = write(sandbox, directory);
      if (!info) return info;
      bool mistaken = false;
      auto confirm = [&]() -> Status {
        mistaken = mistakes > 0;
        if (mistaken) return fail(ErrorCode::Unavailable, "it was not as it was known to be");
        return {};
      };
      const auto verdict = while_frozen({*info, confirm});
      if (mistaken) {
        --mistakes;
        continue;
      }
      if (verdict == agent::HoldVerdict::Kill) (void)sandbox.kill();
      return info;
    }
  }

  Result<agent::RestorePlan> prepare(const fs::path& directory, const fs::path&) override {
    if (!fs::exists(directory / "images/core.img")) return fail(ErrorCode::Damaged, "no image");
    return agent::RestorePlan{.hostname = "h"};
  }

  Result<void> restore(agent::Sandbox&, const fs::path&, const agent::RestoreOptions& options,
                       std::string* log_tail) override {
    ++(options.leave_stopped_then_kill ? preflights : restores);
    auto status = on_restore(options);
    if (!status && log_tail) *log_tail = "the log's tail";
    return status;
  }

  void build_on(agent::Sandbox&, const fs::path&) override { ++built_on; }
  Status finish_restore(agent::Sandbox&) override { return {}; }
  void copy_anew(agent::Sandbox&) override { ++copied_anew; }

 private:
  Result<agent::CheckpointInfo> write(agent::Sandbox& sandbox, const fs::path& directory) {
    ++checkpoints;
    BATON_CHECK(on_checkpoint());
    fs::create_directories(directory / "images");
    std::ofstream(directory / "images/core.img") << "registers";
    agent::CheckpointInfo info;
    info.output_bytes = fs::file_size(sandbox.output_file());
    info.frozen_us = 5'000;
    info.size_bytes = 9;
    info.shape = shape;
    return info;
  }
};

// Remembers what it was told; a test sets what it answers.
class FakeLink : public agent::ControllerLink {
 public:
  // The next calls fail with this, if it is set.
  std::function<Status(std::string_view call)> on_call = [](std::string_view) { return Status(); };

  Result<std::uint64_t> ship_output(JobId, Generation, std::uint64_t offset, std::string data,
                                    agent::CancelToken& cancel) override {
    BATON_CHECK(answer("output", cancel));
    std::lock_guard lock(mutex_);
    if (offset <= output_.size()) {
      output_.resize(offset);
      output_ += data;
    }
    ++output_calls_;
    changed_.notify_all();
    return output_.size();
  }

  Result<agent::UploadResult> upload(const pb::UploadHeader& header, const fs::path& directory,
                                     const std::atomic<bool>& superseded,
                                     const std::function<Status()>& confirm,
                                     agent::CancelToken& cancel) override {
    BATON_CHECK(answer("upload", cancel));
    if (superseded) return fail(ErrorCode::Cancelled, "superseded");
    if (!fs::exists(directory / "images/core.img")) return fail(ErrorCode::Internal, "no image");
    if (confirm) BATON_CHECK(confirm());
    std::lock_guard lock(mutex_);
    if (header.info().output_bytes() > output_.size())
      return fail(ErrorCode::FailedPrecondition, "its output is not here");
    uploads_.push_back(header);
    changed_.notify_all();
    return agent::UploadResult{CheckpointNumber(uploads_.size()),
                               {{"images/core.img", 9, 0644, hash_of_image}}};
  }

  Result<Download> download(const pb::DownloadRequest& request, const fs::path& directory,
                            const fs::path&,
                            const std::function<bool(const pb::Checkpoint&)>& have_it,
                            agent::CancelToken& cancel) override {
    BATON_CHECK(answer("download", cancel));
    Download result;
    result.info = stored;
    result.info.set_number(request.checkpoint());
    if (have_it(result.info)) return result;
    fs::create_directories(directory / "images");
    std::ofstream(directory / "images/core.img") << "registers";
    result.files = {{"images/core.img", 9, 0644, hash_of_image}};
    result.fetched = true;
    std::lock_guard lock(mutex_);
    ++downloads_;
    return result;
  }

  Status report_exit(const pb::ExitReport& report, agent::CancelToken& cancel) override {
    BATON_CHECK(answer("exit", cancel));
    std::lock_guard lock(mutex_);
    exits_.push_back(report);
    changed_.notify_all();
    return {};
  }
  Status report_checkpoint(const pb::CheckpointReport& report,
                           agent::CancelToken& cancel) override {
    BATON_CHECK(answer("report", cancel));
    std::lock_guard lock(mutex_);
    reports_.push_back(report);
    changed_.notify_all();
    return {};
  }

  // Waits until `done` holds; false after ten seconds.
  template <typename Done>
  bool wait_until(Done done, std::chrono::milliseconds most = std::chrono::seconds(10)) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, most, [&] { return done(*this); });
  }
  void poke() {
    std::lock_guard lock(mutex_);
    changed_.notify_all();
  }

  // Read these inside wait_until(), or when nothing else runs.
  std::string output_;
  int output_calls_ = 0;
  int downloads_ = 0;
  std::vector<pb::UploadHeader> uploads_;
  std::vector<pb::ExitReport> exits_;
  std::vector<pb::CheckpointReport> reports_;
  std::vector<pb::OrderResult> results_;
  pb::Checkpoint stored;
  std::string hash_of_image;

  void add_result(const pb::OrderResult& result) {
    std::lock_guard lock(mutex_);
    results_.push_back(result);
    changed_.notify_all();
  }

 private:
  Status answer(std::string_view call, agent::CancelToken& cancel) {
    if (cancel.cancelled()) return fail(ErrorCode::Cancelled, "cancelled");
    return on_call(call);
  }

  std::mutex mutex_;
  std::condition_variable changed_;
};

}  // namespace baton::fakes
