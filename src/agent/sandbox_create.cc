#include "agent/sandbox_create.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <nlohmann/json.hpp>
#include <sstream>

#include "agent/sandbox_client.h"
#include "agent/sandbox_layout.h"
#include "base/log.h"
#include "init/protocol.h"
#include "sys/cgroup.h"
#include "sys/file.h"
#include "sys/mounts.h"

namespace baton::agent {
namespace {

namespace fs = std::filesystem;

Status check_volumes(const std::vector<Volume>& volumes) {
  for (const Volume& volume : volumes) {
    if (!volume.host_path.is_absolute() || !volume.sandbox_path.is_absolute() ||
        volume.sandbox_path.lexically_normal() == "/")
      return fail(ErrorCode::InvalidArgument,
                  fmt::format("volume {}:{}: both paths must be absolute, and the second not /",
                              volume.host_path.string(), volume.sandbox_path.string()));
    std::error_code error;
    if (!fs::exists(volume.host_path, error))
      return fail(ErrorCode::NotFound,
                  fmt::format("volume {}: no such file or directory", volume.host_path.string()));
  }
  return {};
}

Status make_directory(SandboxSpec* spec) {
  BATON_CHECK(sys::make_directories(spec->directory.parent_path()));
  if (::mkdir(spec->directory.c_str(), 0700) != 0)
    return fail_errno(fmt::format("mkdir {}", spec->directory.string()));
  // Paths that are compared with the mount table must be written as the kernel writes them.
  spec->directory = fs::canonical(spec->directory);
  return {};
}

Status check_directory(const SandboxSpec& spec) {
  BATON_TRY(const bool on_overlay, sys::is_on_overlay(spec.directory));
  if (!on_overlay) return {};
  return fail(ErrorCode::Unfit,
              fmt::format("{} is on an overlay, which can't hold private files of jobs; put the "
                          "agent's data on another filesystem (in a container: a volume)",
                          spec.directory.string()));
}

// Pid 1 says nothing when all went well, and a Report when not.
Status await_report(const Fd& pipe) {
  init::Report report;
  ssize_t count;
  do {
    count = ::read(pipe.get(), &report, sizeof report);
  } while (count < 0 && errno == EINTR);
  if (count < 0) return fail_errno("read the report of pid 1");
  if (count == 0) return {};
  report.text[sizeof report.text - 1] = 0;
  const Error error = Error::from_errno(report.text, report.error_number);
  return fail(error.code() == ErrorCode::NoSpace ? ErrorCode::NoSpace : ErrorCode::Internal,
              error.message());
}

constexpr char kInitFile[] = "init.pid";

Status record_init(const fs::path& directory, pid_t pid) {
  BATON_TRY(const std::uint64_t started, sys::start_time_ticks(pid));
  BATON_TRY(const Fd file, sys::open_file(directory / kInitFile, O_WRONLY | O_CREAT, 0600));
  return sys::write_all(file.get(), fmt::format("{} {}\n", pid, started));
}

// What pid 1 enters, and what it lets the job and CRIU enter besides.
struct GroupFiles {
  std::vector<Fd> init;
  std::vector<Fd> children;
};

// Version 1 controllers whose group pid 1 does not enter.
constexpr std::array<std::string_view, 2> kNotOfInit{"cpu", "freezer"};

// Pid 1 must be on time at its lease's end, however little CPU the job or the node is allowed: a
// version 1 group throttles it and forbids real-time scheduling, so it goes to the hierarchy's
// root. Neither may it stand still with a frozen job.
Result<GroupFiles> open_groups(const std::string& job_group) {
  GroupFiles files;
  if (!job_group.empty()) {
    BATON_TRY(const sys::Cgroup group, sys::Cgroup::open(job_group));
    BATON_TRY(files.init, group.open_procs_files(kNotOfInit));
    for (std::string_view controller : kNotOfInit) {
      auto file = group.open_procs_file(controller);
      if (file) files.children.push_back(std::move(*file));
      if (!file && file.error().code() != ErrorCode::NotFound) return fail(std::move(file).error());
    }
  }
  const auto root = sys::Cgroup::open("/");
  const auto own = sys::Cgroup::own();
  if (!root || !own) return files;
  auto root_file = root->open_procs_file("cpu");
  auto own_file = own->open_procs_file("cpu");
  if (!root_file || !own_file) return files;
  files.init.push_back(std::move(*root_file));
  if (job_group.empty()) files.children.push_back(std::move(*own_file));
  return files;
}

void end_init(const sys::PidFd& init) {
  (void)init.signal(SIGKILL);
  init.wait_ended(std::nullopt);
  init.reap();
}

Result<sys::Spawned> spawn_init(const SandboxState& state) {
  const SandboxSpec& spec = state.spec;
  BATON_TRY(const std::string text, init_configuration(spec, state.layout));
  Fd configuration(::memfd_create("baton-sandbox", MFD_CLOEXEC));
  if (!configuration.valid()) return fail_errno("memfd_create");
  BATON_CHECK(sys::write_all(configuration.get(), text));
  BATON_TRY(const Fd folder, sys::open_file(spec.directory, O_RDONLY | O_DIRECTORY));
  BATON_TRY(const Fd control, bind_control_socket(spec.directory));
  BATON_TRY(const Fd null, sys::open_file("/dev/null", O_RDWR));
  BATON_TRY(const Fd log,
            sys::open_file(spec.directory / "init.log", O_WRONLY | O_CREAT | O_APPEND, 0600));
  int pipe_fds[2];
  if (::pipe2(pipe_fds, O_CLOEXEC) != 0) return fail_errno("pipe");
  const Fd report(pipe_fds[0]);
  Fd report_writer(pipe_fds[1]);
  BATON_TRY(const fs::path program, find_init_program());

  sys::SpawnRequest request;
  request.program = program;
  request.clone_flags = CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWUTS;
  request.fds = {{null.get(), 0},
                 {log.get(), 1},
                 {log.get(), 2},
                 {configuration.get(), init::kConfigFd},
                 {folder.get(), init::kDirectoryFd},
                 {control.get(), init::kControlFd},
                 {report_writer.get(), init::kReportFd}};
  BATON_TRY(const GroupFiles groups, open_groups(state.cgroup));
  for (const Fd& group : groups.init) request.cgroup_procs_fds.push_back(group.get());
  int group_fd = init::kFirstGroupFd;
  for (const Fd& group : groups.children) request.fds.emplace_back(group.get(), group_fd++);
  request.argv = {"baton-init", "sandbox", fmt::format("{}", groups.children.size())};
  BATON_TRY(sys::Spawned spawned, sys::spawn(request));
  report_writer.reset();
  Status status = await_report(report);
  if (status && spawned.pidfd.wait_ended(std::chrono::milliseconds(0)))
    status = fail(ErrorCode::Internal, "pid 1 of the sandbox ended at once");
  if (status) status = record_init(spec.directory, spawned.pid);
  if (status) return spawned;
  end_init(spawned.pidfd);
  return fail(std::move(status).error());
}

// A preflight's sandbox lives beside the one that it is to prove, so names may be taken.
Result<sys::Cgroup> make_cgroup(const SandboxSpec& spec) {
  constexpr int kMostTwins = 100;
  for (int twin = 1;; ++twin) {
    std::string name = fmt::format("job-{}.{}", spec.job, spec.generation);
    if (twin > 1) name += fmt::format(".{}", twin);
    auto cgroup = sys::Cgroup::create(fs::path(spec.cgroup_parent) / name);
    if (cgroup || cgroup.error().code() != ErrorCode::AlreadyExists || twin == kMostTwins)
      return cgroup;
  }
}

Status set_limits(const sys::Cgroup& cgroup, const ResourceLimits& limits) {
  if (limits.memory_bytes > 0) BATON_CHECK(cgroup.set_memory_limit(limits.memory_bytes));
  if (limits.cpus > 0) BATON_CHECK(cgroup.set_cpu_quota(limits.cpus));
  return {};
}

Status limit(SandboxState* state) {
  const ResourceLimits& limits = state->spec.limits;
  const bool limited = limits.memory_bytes > 0 || limits.cpus > 0;
  const auto unfit = [](std::string_view cause) {
    return fail(ErrorCode::Unfit, fmt::format("this node can't limit CPU or memory: {}", cause));
  };
  if (state->spec.cgroup_parent.empty()) {
    if (limited) return unfit("it can't make control groups");
    return {};
  }
  const auto cgroup = make_cgroup(state->spec);
  if (!cgroup) {
    if (limited) return unfit(cgroup.error().message());
    spdlog::warn("job {} runs without a control group: {}", state->spec.job,
                 cgroup.error().message());
    return {};
  }
  state->cgroup = cgroup->path();
  const Status set = set_limits(*cgroup, limits);
  return set ? set : unfit(set.error().message());
}

Status remove_cgroup(const std::string& path) {
  if (path.empty()) return {};
  const auto cgroup = sys::Cgroup::open(path);
  if (!cgroup) return {};
  return cgroup->remove();
}

void remove_leftovers(const SandboxState& state) {
  if (const Status removed = remove_cgroup(state.cgroup); !removed)
    spdlog::warn("{}", removed.error().message());
  if (const Status removed = sys::remove_tree(state.spec.directory); !removed)
    spdlog::warn("remove {}: {}", state.spec.directory.string(), removed.error().message());
}

Result<sys::Spawned> fill_and_spawn(SandboxState* state) {
  SandboxSpec& spec = state->spec;
  BATON_CHECK(check_directory(spec));
  BATON_TRY(state->layout, plan_layout(spec));
  BATON_CHECK(limit(state));
  BATON_CHECK(make_layout_directories(spec, state->layout));
  if (spec.populate_uppers)
    BATON_CHECK_CTX(spec.populate_uppers(upper_trees(spec.directory, state->layout)),
                    "fill the private files");
  if (spec.newest_lease_deadline) spec.lease_deadline_boot_ns = spec.newest_lease_deadline();
  BATON_CHECK(save_state(*state));
  return spawn_init(*state);
}

}  // namespace

Result<CreatedSandbox> create_sandbox(const SandboxSpec& given) {
  CreatedSandbox created;
  SandboxSpec& spec = created.state.spec;
  spec = given;
  std::error_code error;
  spec.base = fs::canonical(given.base, error);
  if (error)
    return fail(ErrorCode::InvalidArgument,
                fmt::format("root filesystem {}: {}", given.base.string(), error.message()));
  if (!spec.directory.is_absolute())
    return fail(ErrorCode::InvalidArgument, "the sandbox's directory is not an absolute path");
  BATON_CHECK(check_volumes(spec.volumes));
  BATON_CHECK(make_directory(&spec));
  auto init = fill_and_spawn(&created.state);
  if (!init) {
    remove_leftovers(created.state);
    return fail(std::move(init).error().context("make the sandbox"));
  }
  created.init = std::move(*init);
  return created;
}

void discard(const SandboxState& state, const sys::PidFd& init) {
  end_init(init);
  remove_leftovers(state);
}

Result<sys::PidFd> recorded_init(const fs::path& directory) {
  BATON_TRY(const std::string text, sys::read_file(directory / kInitFile, 4096));
  std::istringstream fields(text);
  pid_t pid = 0;
  std::uint64_t started = 0;
  if (!(fields >> pid >> started)) return fail(ErrorCode::NotFound, "no pid 1 was recorded");
  BATON_TRY(sys::PidFd process, sys::PidFd::open(pid));
  const auto start_time = sys::start_time_ticks(pid);
  if (!start_time || *start_time != started)
    return fail(ErrorCode::NotFound, "the sandbox has ended");
  return process;
}

Status write_killed_exit(const fs::path& directory) {
  std::error_code error;
  const auto size = fs::file_size(directory / "io/output", error);
  const nlohmann::json j{
      {"kind", "killed"}, {"code", 128 + SIGKILL}, {"output_bytes", error ? 0 : size}};
  return sys::write_file_durable(directory / kExitFile, j.dump() + "\n", 0600);
}

Result<SandboxExit> Sandbox::read_exit(const fs::path& directory) {
  SandboxExit exit;
  std::error_code error;
  if (!fs::is_directory(directory, error))
    return fail(ErrorCode::NotFound, fmt::format("no sandbox at {}", directory.string()));
  const auto size = fs::file_size(directory / "io/output", error);
  exit.output_bytes = error ? 0 : size;
  const auto text = sys::read_file(directory / kExitFile, 4096);
  if (!text && text.error().code() == ErrorCode::NotFound) return exit;
  if (!text) return fail(text.error());
  const auto j = nlohmann::json::parse(*text, nullptr, false);
  if (!j.is_object()) return exit;
  const std::string kind = j.value("kind", "");
  if (kind == "exited") exit.kind = SandboxExit::Kind::Exited;
  if (kind == "fenced") exit.kind = SandboxExit::Kind::Fenced;
  if (kind == "killed") exit.kind = SandboxExit::Kind::Killed;
  if (kind == "harmed") exit.kind = SandboxExit::Kind::Harmed;
  exit.code = j.value("code", 0);
  exit.output_bytes = j.value("output_bytes", exit.output_bytes);
  return exit;
}

Status Sandbox::remove(const fs::path& directory) {
  std::error_code error;
  if (!fs::exists(directory, error)) return {};
  const auto running = Sandbox::adopt(directory);
  if (running) return fail(ErrorCode::FailedPrecondition, "the sandbox still runs");
  if (const auto state = load_state(directory)) BATON_CHECK(remove_cgroup(state->cgroup));
  return sys::remove_tree(directory);
}

}  // namespace baton::agent
