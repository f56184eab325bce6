#include "agent/preflight.h"

#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>

#include "agent/specs.h"
#include "base/fault.h"
#include "base/log.h"
#include "sys/file.h"
#include "sys/mounts.h"
#include "sys/priority.h"

namespace baton::agent {
namespace {

namespace fs = std::filesystem;

// It never runs, so its lease matters to nobody; it ends with this process in any case.
constexpr std::int64_t kLifetimeNs = std::int64_t{10} * 60 * 1'000'000'000;

// The job still runs and holds its ports and abstract sockets in the node's network namespace.
Status enter_empty_network() {
  if (::unshare(CLONE_NEWNET) != 0) return fail_errno("new network namespace");
  Fd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!socket.valid()) return fail_errno("socket");
  ifreq request{};
  std::strncpy(request.ifr_name, "lo", IFNAMSIZ - 1);
  request.ifr_flags = IFF_UP;
  if (::ioctl(socket.get(), SIOCSIFFLAGS, &request) != 0) return fail_errno("loopback up");
  // The node's addresses are not here, and what is bound to one must not fail for that.
  (void)sys::write_control("/proc/sys/net/ipv4/ip_nonlocal_bind", "1");
  (void)sys::write_control("/proc/sys/net/ipv6/ip_nonlocal_bind", "1");
  return {};
}

}  // namespace

Preflight::Preflight(NodeContext& node, pb::JobSpec spec, JobId job, Generation generation,
                     std::shared_ptr<LocalCopy> copy)
    : node_(node),
      spec_(std::move(spec)),
      job_(job),
      generation_(generation),
      copy_(std::move(copy)),
      directory_(node.scratch() / fmt::format("{}.{}", job, generation)) {}

Preflight::~Preflight() { clean_up(); }

void Preflight::clean_up() {
  if (auto sandbox = sandbox_.exchange(nullptr)) {
    (void)sandbox->kill();
    sandbox.reset();
    if (auto removed = node_.sandboxes.remove(directory_ / "sandbox"); !removed)
      spdlog::warn("job {}: remove preflight: {}", job_, removed.error().message());
  }
  for (auto mount = mounts_.rbegin(); mount != mounts_.rend(); ++mount)
    ::umount2(mount->c_str(), MNT_DETACH);
  mounts_.clear();
  (void)sys::remove_tree(directory_);
}

void Preflight::cancel() {
  give_way();
  if (auto sandbox = sandbox_.load()) (void)sandbox->kill();
}

Status Preflight::check_memory() const {
  const std::uint64_t free = node_.memory_free_bytes();
  const std::uint64_t needed = copy_->info().size_bytes() + copy_->info().memory_bytes();
  if (needed < free / 2) return {};
  return fail(ErrorCode::Unfit, fmt::format("not tried: a checkpoint of {} MiB, {} MiB free here",
                                            needed >> 20, free >> 20));
}

Status Preflight::cover_volumes(SandboxSpec& spec) {
  int number = 0;
  for (Volume& volume : spec.volumes) {
    if (volume.read_only) continue;
    const fs::path folder = directory_ / fmt::format("volume-{}", number++);
    const fs::path merged = folder / "merged";
    for (const char* part : {"upper", "work", "merged"})
      BATON_CHECK(sys::make_directories(folder / part, 0700));
    const std::string options = fmt::format(
        "lowerdir={},upperdir={},workdir={}", sys::escape_overlay_path(volume.host_path),
        sys::escape_overlay_path(folder / "upper"), sys::escape_overlay_path(folder / "work"));
    if (::mount("overlay", merged.c_str(), "overlay", 0, options.c_str()) == 0) {
      mounts_.push_back(merged);
      volume.host_path = merged;
    } else {
      volume.read_only = true;  // a file or a filesystem that can't be below an overlay
    }
  }
  return {};
}

Status Preflight::run(std::string* log_tail) {
  BATON_CHECK(check_memory());
  sys::work_behind_others();
  BATON_CHECK(enter_empty_network());
  BATON_CHECK(sys::remove_tree(directory_));
  BATON_CHECK(sys::make_directories(directory_, 0700));
  SandboxSpec spec = sandbox_spec(node_, spec_, job_, generation_, directory_ / "sandbox");
  spec.newest_lease_deadline = [this] { return node_.now_ns() + kLifetimeNs; };
  BATON_CHECK(cover_volumes(spec));
  BATON_TRY(RestorePlan plan, node_.engine.prepare(copy_->directory(), spec.base));
  apply_plan(plan, spec);
  BATON_TRY(auto created, node_.sandboxes.create(spec));
  std::shared_ptr<Sandbox> sandbox = std::move(created);
  sandbox_ = sandbox;
  if (given_up_.stop_requested()) return fail(ErrorCode::Cancelled, "preflight cancelled");
  BATON_CHECK(sandbox->set_die_with_agent(true));
  BATON_CHECK(fault("agent.preflight.before_restore"));
  return node_.engine.restore(*sandbox, copy_->directory(),
                              {.leave_stopped_then_kill = true,
                               .given_up = given_up_.get_token(),
                               .read_ahead = plan.read_ahead},
                              log_tail);
}

Status remove_scratch(const fs::path& scratch) {
  auto mounts = sys::read_mounts();
  if (!mounts) return fail(mounts.error());
  for (auto mount = mounts->rbegin(); mount != mounts->rend(); ++mount)
    if (mount->target.string().starts_with(scratch.string() + "/"))
      ::umount2(mount->target.c_str(), MNT_DETACH);
  return sys::remove_tree(scratch);
}

}  // namespace baton::agent
