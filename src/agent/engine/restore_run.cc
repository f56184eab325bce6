#include "agent/engine/restore_run.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>

#include "agent/engine/assemble.h"
#include "agent/engine/base_files.h"
#include "agent/engine/checkpoint_layout.h"
#include "agent/engine/images_link.h"
#include "base/fault.h"
#include "base/log.h"
#include "criu/explain.h"
#include "criu/images.h"
#include "criu/log.h"
#include "store/tree_archive.h"
#include "sys/capabilities.h"
#include "sys/file.h"
#include "sys/page_faults.h"
#include "sys/priority.h"
#include "sys/process.h"
#include "sys/process_attributes.h"

namespace baton::agent {
namespace {

namespace fs = std::filesystem;

constexpr const char* log_name = "restore.log";
constexpr std::uint32_t most_lazy_processes = 128;

bool is_overlay(const std::string& tree) {
  return tree == "upper" || !overlay_paths({tree}).empty();
}

}  // namespace

Status RestoreRun::run(const RestoreOptions& restore_options, std::string* log_tail) {
  auto work = [&]() -> Status {
    BATON_TRY(record_, read_record(directory_));
    // Images that are cut short are told apart here; CRIU would call them many names.
    BATON_CHECK(criu::summarize_images(directory_ / "images"));
    BATON_CHECK(fill_trees());
    BATON_CHECK(launch_criu());  // it starts while its images are put in place
    BATON_CHECK(make_output());
    BATON_CHECK(place_images(restore_options));
    BATON_CHECK(fault("restore.before_criu"));
    if (restore_options.given_up.stop_requested())
      return fail(ErrorCode::Cancelled, "it was given up");
    // Nobody waits for a proof, and it reads and writes all of the job's memory.
    if (const pid_t criu = sys::pid_behind(worker_.pidfd);
        restore_options.leave_stopped_then_kill && criu > 0)
      sys::lower_priority_of(criu);
    return criu_restore(restore_options.leave_stopped_then_kill, log_tail);
  };
  auto status = work();
  if (!status || restore_options.leave_stopped_then_kill) {
    lazy_.reset();
    if (auto killed = sandbox_.kill(); !killed && status) status = std::move(killed);
  }
  BATON_CHECK_CTX(std::move(status), "restore");
  return {};
}

// The overlays' layers were filled before they were mounted; see RestorePlan.
Status RestoreRun::fill_trees() {
  for (const auto& tree : record_.trees) {
    if (is_overlay(tree.name)) continue;
    auto trees = sandbox_.private_trees();
    auto at = std::ranges::find(trees, tree.name, [](const auto& pair) { return pair.first; });
    if (at == trees.end())
      return fail(ErrorCode::Unfit,
                  fmt::format("this sandbox has no place for the tree \"{}\"", tree.name));
    BATON_CHECK(store::extract_tree(directory_ / tree.archive, at->second,
                                    {tree.contents, directory_ / layout::files_folder}));
  }
  return {};
}

// What was printed before is at the controller; here the file only has to be as long.
Status RestoreRun::make_output() {
  BATON_TRY(Fd output, sys::open_file(sandbox_.output_file(), O_WRONLY | O_CREAT, 0600));
  if (::ftruncate(output.get(), static_cast<off_t>(record_.info.output_bytes)) != 0)
    return fail_errno(fmt::format("set the length of {}", sandbox_.output_file().string()));
  return {};
}

bool RestoreRun::wants_lazy(const RestoreOptions& restore_options, const PageMaps& maps) const {
  if (restore_options.memory != RestoreMemory::Auto)
    return restore_options.memory == RestoreMemory::Lazy;
  // Pid 1 holds a descriptor of each, and of those that they fork meanwhile.
  if (record_.info.process_count > most_lazy_processes) return false;
  if (!sys::page_faults_refusal().empty()) return false;
  const TrackedBytes bytes = tracked_bytes(maps);
  // Processes that share much would each get their own: restored at once, they share it again.
  const bool shares = bytes.distinct < bytes.all - bytes.all / 8;
  return bytes.all >= options_.lazy_restore_bytes && !shares;
}

Status RestoreRun::place_images(const RestoreOptions& restore_options) {
  auto ahead = restore_options.read_ahead;
  if (!ahead) ahead = std::make_shared<ReadAhead>(directory_);
  BATON_TRY(PageMaps maps, ahead->take_maps());
  const bool lazily = wants_lazy(restore_options, maps);
  OpenPacks packs(directory_ / layout::packs_folder, restore_options.ready);
  BATON_TRY(auto assembled,
            assemble_memory(directory_, std::move(maps), packs, sandbox_.images_directory(), lazily,
                            restore_options.given_up));
  // To put them into their places as well would write all of them to the disk first.
  if (restore_options.leave_stopped_then_kill)
    for (const auto& [pid, lazy] : assembled.lazy)
      BATON_CHECK(packs.prove(lazy.map, restore_options.given_up));
  if (!assembled.lazy.empty()) {
    BATON_TRY(lazy_, LazyMemory::start(sandbox_, std::move(packs), std::move(assembled.lazy)));
  }
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(directory_ / "images", error))
    if (!assembled.files.contains(entry.path().filename()))
      BATON_CHECK(
          link_or_copy(entry.path(), sandbox_.images_directory() / entry.path().filename()));
  if (error)
    return fail(ErrorCode::Damaged,
                fmt::format("{}: {}", (directory_ / "images").string(), error.message()));
  return limit_capabilities();
}

// It may come from a node that gives more, or from a time when every job had all.
Status RestoreRun::limit_capabilities() {
  BATON_TRY(const std::uint64_t taken,
            criu::limit_capabilities(sandbox_.images_directory(), sys::own_capabilities()));
  if (taken != 0)
    spdlog::warn("job {}: goes on without the capabilities {}: this node can't give them",
                 sandbox_.spec().job, sys::capability_names(taken));
  return {};
}

// CRIU makes an ipc namespace if its images hold one. Else the tree shares CRIU's own, which must
// not be that of another.
CriuIpc RestoreRun::criu_ipc() const {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(directory_ / "images", error))
    if (entry.path().filename().native().starts_with("ipcns-")) return CriuIpc::Outside;
  return CriuIpc::Fresh;
}

Status RestoreRun::launch_criu() {
  BATON_TRY(worker_, sandbox_.launch_criu(record_.pids, criu_ipc()));
  return {};
}

Status RestoreRun::criu_restore(bool preflight, std::string* log_tail) {
  criu::Session session(std::move(worker_.socket), std::move(worker_.pidfd));
  criu::SessionOptions options;
  BATON_TRY(options.images_dir, link_images(sandbox_));
  options.log_file = log_name;
  options.silence_limit = options_.criu_silence_limit;
  options.lazy_pages = lazy_ != nullptr;
  bool proven = false;
  Status adopted;
  auto hook = [&](std::string_view name, pid_t) -> Status {
    // Everything is in place and every task waits in its last system call of the restore.
    if (name != "pre-resume") return {};
    if (lazy_) adopted = lazy_->ready();
    if (!adopted) return sandbox_.kill();
    if (preflight) {
      proven = true;
      return sandbox_.kill();
    }
    adopted = sandbox_.adopt_restored(record_.root_pid, record_.command_pid);
    // CRIU would only log a failure of this hook and let the job run.
    if (!adopted) return sandbox_.kill();
    apply_attributes();
    return {};
  };
  auto restored = session.restore(options, hook);
  if (proven) return {};
  if (!adopted) return adopted;
  if (restored && lazy_) lazy_->begin();
  if (restored) return {};
  std::string log = criu::read_log(sandbox_.images_directory() / log_name);
  if (log_tail) *log_tail = criu::tail(log);
  if (lazy_) BATON_CHECK(lazy_->state());
  if (session.worker_died()) return fail(std::move(restored).error());
  auto explanation = criu::explain(criu::Operation::Restore, session.criu_message(), log);
  return fail(explanation.code, explanation.text);
}

void RestoreRun::apply_attributes() {
  auto processes = sandbox_.processes();
  auto node_cpus = sys::allowed_cpus(sandbox_.init_pid());
  if (!processes || !node_cpus) {
    spdlog::warn("job {}: attributes not restored: {}", sandbox_.spec().job,
                 (processes ? node_cpus.error() : processes.error()).message());
    return;
  }
  for (const auto& attributes : record_.attributes)
    for (auto [inner, pid] : *processes) {
      if (inner != attributes.inner_pid) continue;
      for (const auto& refused : sys::apply_process_attributes(pid, attributes, *node_cpus))
        spdlog::warn("job {}: not restored: {}", sandbox_.spec().job, refused);
    }
}

}  // namespace baton::agent
