#include "agent/probe.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>
#include <optional>

#include "agent/engine/engine.h"
#include "agent/sandbox.h"
#include "base/clock.h"
#include "base/log.h"
#include "criu/session.h"
#include "sys/file.h"
#include "sys/mounts.h"
#include "sys/userfaultfd.h"

namespace baton::agent {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t progress_limit_ms = 10'000;
constexpr int lines_wanted = 5;
constexpr const char* ordinary_user = "65534:65534";
constexpr const char* soft_dirty_ability = "soft-dirty";

std::string kernel_release() {
  utsname name{};
  ::uname(&name);
  return name.release;
}

// A folder that goes away with everything in it.
class Scratch {
 public:
  static Result<Scratch> make(const fs::path& wanted) {
    std::vector<fs::path> candidates = {"/var/tmp", "/tmp", "/run", "/dev/shm"};
    if (!wanted.empty()) candidates = {wanted};
    for (const auto& candidate : candidates) {
      auto overlay = sys::is_on_overlay(candidate);
      if (!overlay || *overlay) continue;
      std::string pattern = candidate / "baton-probe-XXXXXX";
      if (::mkdtemp(pattern.data())) return Scratch(pattern);
    }
    return fail(ErrorCode::Unfit,
                "the probe needs a folder that is not on an overlay (in a container: a volume)");
  }
  Scratch(Scratch&& other) noexcept : path_(std::exchange(other.path_, {})) {}
  ~Scratch() {
    if (path_.empty()) return;
    if (auto removed = sys::remove_tree(path_); !removed)
      spdlog::warn("probe: {}", removed.error().message());
  }
  const fs::path& path() const { return path_; }

 private:
  explicit Scratch(fs::path path) : path_(std::move(path)) {}
  fs::path path_;
};

// A sandbox that is killed and removed at the end.
class Trial {
 public:
  explicit Trial(std::unique_ptr<Sandbox> sandbox) : sandbox_(std::move(sandbox)) {}
  Trial(Trial&&) = default;
  ~Trial() {
    if (!sandbox_) return;
    fs::path directory = sandbox_->spec().directory;
    auto killed = sandbox_->kill();
    sandbox_.reset();
    auto removed = Sandbox::remove(directory);
    if (!killed || !removed)
      spdlog::warn("probe: {}", (killed ? removed.error() : killed.error()).message());
  }
  Sandbox& operator*() { return *sandbox_; }
  Sandbox* operator->() { return sandbox_.get(); }

 private:
  std::unique_ptr<Sandbox> sandbox_;
};

// The last whole line that the job printed, once there are `lines` behind the first `from` bytes.
Result<long> await_progress(const Sandbox& sandbox, int lines, std::uint64_t from) {
  Fd watcher(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  if (!watcher.valid() ||
      ::inotify_add_watch(watcher.get(), sandbox.output_file().parent_path().c_str(), IN_MODIFY) <
          0)
    return fail_errno("watch the output");
  const std::int64_t deadline_ms = boot_time_ms() + progress_limit_ms;
  for (;;) {
    std::string text;
    if (auto content = sys::read_file(sandbox.output_file())) text = std::move(*content);
    std::string_view fresh =
        std::string_view(text).substr(std::min<std::size_t>(from, text.size()));
    if (std::ranges::count(fresh, '\n') >= lines) {
      fresh.remove_suffix(fresh.size() - fresh.rfind('\n'));
      std::string_view last = fresh.substr(fresh.rfind('\n') + 1);
      long value = 0;
      auto [end, error] = std::from_chars(last.data(), last.data() + last.size(), value);
      if (error == std::errc() && end == last.data() + last.size()) return value;
      return fail(ErrorCode::Internal, fmt::format("the probe's process says \"{}\"", last));
    }
    const std::int64_t left_ms = deadline_ms - boot_time_ms();
    pollfd waiting[2] = {{watcher.get(), POLLIN, 0}, {sandbox.ended_fd(), POLLIN, 0}};
    if (left_ms <= 0 || ::poll(waiting, 2, static_cast<int>(left_ms)) == 0)
      return fail(ErrorCode::TimedOut, "the probe's process stands still");
    if (waiting[1].revents != 0) return fail(ErrorCode::Internal, "the probe's process has ended");
    char events[4096];
    while (::read(watcher.get(), events, sizeof events) > 0) {
    }
  }
}

class Probe {
 public:
  Probe(fs::path prefix, fs::path work) : prefix_(std::move(prefix)), work_(std::move(work)) {}

  Status prepare() {
    // The node's root may be an overlay itself; the probe's process needs nothing of it.
    for (const char* name : {"dev", "proc", "sys", "run", "tmp", "etc"})
      BATON_CHECK(sys::make_directories(work_ / "base" / name));
    BATON_TRY(engine_, make_engine({.cache_directory = work_ / "cache"}));
    return {};
  }

  struct Criu {
    std::string version;
    bool soft_dirty = false;
  };
  Result<Criu> ask_criu() {
    BATON_TRY(Trial trial, make_sandbox(nullptr));
    auto launch = [&]() -> Result<std::unique_ptr<criu::Session>> {
      BATON_TRY(CriuWorker worker, trial->launch_criu());
      return std::make_unique<criu::Session>(std::move(worker.socket), std::move(worker.pidfd));
    };
    BATON_TRY(auto session, launch());
    BATON_TRY(auto version, session->version());
    BATON_TRY(session, launch());
    auto soft_dirty = session->can_track_memory();
    if (!soft_dirty) spdlog::debug("probe: {}", soft_dirty.error().message());
    return Criu{version.to_string(), soft_dirty.value_or(false)};
  }

  Status run(const std::string& user) {
    fs::path checkpoint = work_ / fmt::format("checkpoint-{}", count_);
    long seen = 0;
    std::uint64_t output_bytes = 0;
    {
      BATON_TRY(Trial trial, make_sandbox(nullptr));
      CommandSpec command;
      command.argv = {"/.baton/init", "probe-target"};
      command.user = user;
      BATON_CHECK(trial->start(command));
      BATON_TRY(seen, await_progress(*trial, lines_wanted, 0));
      BATON_TRY(auto info, engine_->checkpoint(*trial, checkpoint));
      output_bytes = info.output_bytes;
      BATON_CHECK(await_progress(*trial, lines_wanted, output_bytes));
    }
    BATON_TRY(RestorePlan plan, engine_->prepare(checkpoint, work_ / "base"));
    BATON_TRY(Trial trial, make_sandbox(&plan));
    BATON_CHECK(engine_->restore(*trial, checkpoint, {}, nullptr));
    BATON_TRY(long now, await_progress(*trial, lines_wanted, output_bytes));
    if (now <= seen) return fail(ErrorCode::Internal, "the restored process began anew");
    return {};
  }

 private:
  Result<Trial> make_sandbox(const RestorePlan* plan) {
    SandboxSpec spec;
    spec.generation = Generation(++count_);
    spec.directory = work_ / fmt::format("sandbox-{}", count_);
    spec.base = work_ / "base";
    spec.criu_prefix = prefix_;
    spec.hostname = "probe";
    spec.criu_kdat_cache = work_ / "kdat";
    if (plan) {
      spec.overlay_paths = plan->overlay_paths;
      spec.populate_uppers = plan->populate_uppers;
    }
    BATON_TRY(auto sandbox, Sandbox::create(spec));
    return Trial(std::move(sandbox));
  }

  const fs::path prefix_;
  const fs::path work_;
  std::unique_ptr<Engine> engine_;
  std::uint64_t count_ = 0;
};

Result<ProbeReport> read_report(const fs::path& path) {
  BATON_TRY(std::string text, sys::read_file(path, 1 << 20));
  auto value = nlohmann::json::parse(text, nullptr, false);
  if (!value.is_object()) return fail(ErrorCode::Damaged, path.string());
  ProbeReport report;
  report.ok = value.value("ok", false);
  report.why = value.value("why", "");
  report.kernel = value.value("kernel", "");
  report.criu_version = value.value("criu_version", "");
  report.tier = value.value("tier", "");
  report.abilities = value.value("abilities", std::vector<std::string>());
  return report;
}

}  // namespace

bool has_soft_dirty(const ProbeReport& report) {
  return std::ranges::count(report.abilities, soft_dirty_ability) != 0;
}

std::string to_json(const ProbeReport& report) {
  return nlohmann::json{{"ok", report.ok},         {"why", report.why},
                        {"kernel", report.kernel}, {"criu_version", report.criu_version},
                        {"tier", report.tier},     {"abilities", report.abilities}}
      .dump(2);
}

Result<ProbeReport> probe_criu(const fs::path& prefix, const fs::path& work) {
  ProbeReport report;
  report.kernel = kernel_release();
  auto failed = [&](std::string why) {
    report.why = std::move(why);
    return report;
  };
  std::error_code error;
  if (!fs::exists(prefix / "bin/criu", error))
    return failed(
        fmt::format("there is no CRIU in {}: run scripts/provision-criu", prefix.string()));
  if (::geteuid() != 0) return failed("checkpointing needs root");
  BATON_TRY(Scratch scratch, Scratch::make(work));
  Probe probe(fs::absolute(prefix), scratch.path());
  if (auto ready = probe.prepare(); !ready) return failed(ready.error().message());
  auto criu = probe.ask_criu();
  if (!criu) return failed(criu.error().message());
  report.criu_version = criu->version;
  auto as_user = probe.run(ordinary_user);
  auto as_root = as_user ? Status{} : probe.run("");
  if (!as_root) return failed(as_root.error().message());
  report.ok = true;
  report.tier = sys::probe_tracking().available ? "tracked"
                : criu->soft_dirty              ? soft_dirty_ability
                                                : "full";
  report.abilities = {"tcp", "threads"};
  if (criu->soft_dirty) report.abilities.insert(report.abilities.begin(), soft_dirty_ability);
  if (as_user)
    report.abilities.insert(report.abilities.begin(), "other-users");
  else
    report.why = fmt::format("only programs of root: {}", as_user.error().message());
  return report;
}

Result<ProbeReport> recall_or_probe_criu(const fs::path& prefix, const fs::path& work) {
  const std::string kernel = kernel_release();
  const fs::path kept = prefix / fmt::format("probe-{}.json", kernel);
  auto recalled = read_report(kept);
  if (recalled && recalled->ok && recalled->kernel == kernel) return recalled;
  BATON_TRY(auto report, probe_criu(prefix, work));
  if (auto written = sys::write_file_durable(kept, to_json(report) + "\n"); !written)
    spdlog::debug("the probe's answer is not kept: {}", written.error().message());
  return report;
}

}  // namespace baton::agent
