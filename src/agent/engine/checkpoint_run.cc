#include "agent/engine/checkpoint_run.h"

#include <poll.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <optional>

#include "agent/engine/images_link.h"
#include "agent/engine/refusal.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "criu/explain.h"
#include "criu/images.h"
#include "criu/log.h"
#include "sys/file.h"
#include "sys/ipc_state.h"
#include "sys/mounts.h"
#include "sys/process.h"
#include "sys/process_attributes.h"

namespace baton::agent {
namespace {

namespace fs = std::filesystem;

constexpr const char* log_name = "dump.log";
constexpr std::chrono::milliseconds kLongestTurn{1'000};

Status move_file(const fs::path& from, const fs::path& to) {
  if (::rename(from.c_str(), to.c_str()) == 0) return {};
  if (errno != EXDEV) return fail_errno(fmt::format("move {}", from.string()));
  BATON_CHECK(copy_content(from, to));
  if (::unlink(from.c_str()) != 0) return fail_errno(fmt::format("remove {}", from.string()));
  return {};
}

Status empty_directory(const fs::path& directory) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(directory, error))
    BATON_CHECK(sys::remove_tree(entry.path()));
  if (error) return fail_errno(directory.string(), error.value());
  return {};
}

std::uint64_t tree_bytes(const fs::path& directory) {
  std::uint64_t bytes = 0;
  std::error_code error;
  for (const auto& entry : fs::recursive_directory_iterator(directory, error))
    if (struct stat info{}; ::lstat(entry.path().c_str(), &info) == 0 && S_ISREG(info.st_mode))
      bytes += static_cast<std::uint64_t>(info.st_size);
  return bytes;
}

std::uint64_t free_bytes(const fs::path& directory) {
  struct statvfs info {};
  if (::statvfs(directory.c_str(), &info) != 0) return ~std::uint64_t{0};
  return std::uint64_t{info.f_bavail} * info.f_frsize;
}

// Nothing tells somebody else than a parent that a process has stopped.
bool stands_still(pid_t pid) {
  constexpr int looks = 50;
  for (int look = 0; look < looks; ++look) {
    auto state = sys::status_field(pid, "State");
    if (!state) return false;
    if (state->starts_with("T")) return true;
    ::poll(nullptr, 0, 1);
  }
  return false;
}

std::string join(const std::set<std::string>& words) {
  std::string text;
  for (const auto& word : words) text += (text.empty() ? "" : ",") + word;
  return text;
}

}  // namespace

Result<CheckpointInfo> CheckpointRun::run(const Hold& hold) {
  started_ns_ = lap_ns_ = boot_time_ns();
  auto work = [&]() -> Status {
    BATON_CHECK(prepare_directories());
    BATON_CHECK(dump(hold));
    if (!completed_) BATON_CHECK(complete(false));
    return {};
  };
  auto status = work();
  if (!status) {
    files_.abandon();
    if (memory_) memory_->abandon();
    if (soft_dirty_) soft_dirty_->abandon();
    if (auto removed = sys::remove_tree(directory_); !removed)
      spdlog::warn("failed checkpoint: {}", removed.error().message());
    return fail(std::move(status).error().context("checkpoint"));
  }
  files_.keep();
  return record_.info;
}

Status CheckpointRun::prepare_directories() {
  if (::mkdir(directory_.c_str(), 0700) != 0) {
    BATON_CHECK(sys::make_directories(directory_.parent_path(), 0700));
    if (::mkdir(directory_.c_str(), 0700) != 0)
      return fail_errno(fmt::format("mkdir {}", directory_.string()));
  }
  BATON_CHECK(sys::make_directories(directory_ / "images", 0700));
  if (auto emptied = empty_directory(sandbox_.quick_images_directory());
      !emptied && emptied.error().code() != ErrorCode::NotFound)
    return emptied;
  return empty_directory(sandbox_.images_directory());
}

Status CheckpointRun::dump(const Hold& hold) {
  auto& steps = record_.info.steps;
  files_.before_freeze(sandbox_);
  steps.precopied_file_bytes = files_.stats().precopied_bytes;
  steps.file_precopy_us = lap_us();
  BATON_TRY(auto processes, sandbox_.processes());
  if (memory_) {
    memory_->before_dump(processes, sandbox_.images_directory(),
                         foreknowledge_ == Foreknowledge::None);
    if (hold) memory_->prepare_save(directory_);
    for (std::uint64_t pages : memory_->precopy_stats().pages_per_round)
      steps.precopied_pages += pages;
  }
  steps.precopy_us = lap_us();
  roll_ = take_roll_call(processes);
  without_ipc_ = foreknowledge_ == Foreknowledge::Use && has_nothing_of_ipc(processes);
  BATON_TRY(CriuWorker worker,
            sandbox_.launch_criu({}, without_ipc_ ? CriuIpc::Tree : CriuIpc::Outside));
  const pid_t worker_pid = sys::pid_behind(worker.pidfd);
  criu::Session session(std::move(worker.socket), std::move(worker.pidfd));
  criu::SessionOptions options;
  BATON_TRY(options.images_dir, link_images(sandbox_));
  options.log_file = log_name;
  options.silence_limit = options_.criu_silence_limit;
  BATON_CHECK(choose_tier(processes, options));
  FreezeWatch watch(hold ? std::chrono::milliseconds(0) : freeze_limit(processes),
                    [&] { return let_go(session, worker_pid); });
  watch_ = &watch;
  BATON_TRY(when_stopped_,
            WhenStopped::create(sandbox_.images_directory(), [this] { note_while_stopped(); }));
  auto hook = [&](std::string_view name, pid_t) -> Status {
    if (name == "pre-dump") {
      // A freeze that copies all memory would keep others from their processor for seconds.
      if (memory_ && memory_->description().starts_with("tracked")) {
        turn_.emplace(gate_.wait(kLongestTurn));
        hasty_work_.emplace(worker_pid);
        hasty_ = hasty_work_->is_hasty();
      }
      steps.launch_us = lap_us();
      freeze_started_ns_ = lap_ns_;
      watch.begin();
      return fault("dump.before_freeze");
    }
    return name == "post-dump" ? while_frozen(hold) : Status{};
  };
  auto status = session.dump(sandbox_.root_pid_inner(), options, hook);
  steps.resume_us = lap_us();
  hasty_work_.reset();
  turn_.reset();
  when_stopped_.reset();
  bool too_long = watch.end();
  watch_ = nullptr;
  if (killed_) return {};  // and CRIU with it
  if (!completed_) record_.info.frozen_us = (lap_ns_ - freeze_started_ns_) / 1000;
  if (status) return {};
  Error error = explain_failure(status.error(), session);
  if (!too_long || error.code() == ErrorCode::Damaged) return fail(std::move(error));
  return fail(ErrorCode::TimedOut,
              fmt::format("the job stood still for more than {} ms, so it was let go",
                          watch.limit().count()));
}

// Tracked memory is hidden from CRIU by now; the rest is its to dump.
Status CheckpointRun::choose_tier(const Processes& processes, criu::SessionOptions& options) {
  if (!soft_dirty_) return {};
  if (!memory_->active())
    return soft_dirty_->before_dump(processes, sandbox_.images_directory(), memory_->reason(),
                                    options);
  soft_dirty_->forget();
  return {};
}

// Looked at while CRIU stands still: else it may be in the middle of a call again when it is
// killed.
bool CheckpointRun::let_go(criu::Session& session, pid_t worker) {
  session.signal_worker(SIGSTOP);
  if (stands_still(worker) && (released_ || can_be_let_go(roll_))) {
    session.kill_worker();
    return true;
  }
  session.signal_worker(SIGCONT);
  return false;
}

// What has to be written while the job stands still takes its time.
std::chrono::milliseconds CheckpointRun::freeze_limit(const Processes& processes) const {
  std::uint64_t bytes = files_.freeze_bytes();
  bool tracked = memory_ && memory_->description() == "tracked";
  for (auto [inner, pid] : processes)
    if (auto kib = sys::status_field(pid, tracked ? "RssShmem" : "VmRSS"))
      bytes += std::strtoull(kib->c_str(), nullptr, 10) << 10;
  return options_.freeze_limit + time_for(bytes);
}

std::chrono::milliseconds CheckpointRun::time_for(std::uint64_t bytes) const {
  return options_.freeze_limit_per_gib * bytes / (1u << 30);
}

PrivateFiles::Unforeseen CheckpointRun::unforeseen() const {
  return [this](std::uint64_t bytes) { watch_->extend(time_for(bytes)); };
}

std::int64_t CheckpointRun::lap_us() {
  std::int64_t before_ns = std::exchange(lap_ns_, boot_time_ns());
  return (lap_ns_ - before_ns) / 1000;
}

Status CheckpointRun::while_frozen(const Hold& hold) {
  released_ = true;
  record_.info.steps.metadata_us = lap_us();
  BATON_CHECK(fault("dump.frozen"));
  BATON_CHECK(capture());
  if (!hold) return {};
  hasty_work_.reset();  // what follows may take long
  turn_.reset();
  record_.info.frozen_us = (boot_time_ns() - freeze_started_ns_) / 1000;
  auto verdict = HoldVerdict::Resume;
  Status completed = complete(true);
  record_.info.frozen_us = (boot_time_ns() - freeze_started_ns_) / 1000;
  if (completed) verdict = hold({record_.info, [this] { return confirm(); }});
  Status confirmed = confirm();  // in any case: it is looked at beside all that
  BATON_CHECK(std::move(completed));
  BATON_CHECK(std::move(confirmed));
  if (verdict == HoldVerdict::Resume) return {};
  killed_ = true;
  return sandbox_.kill();
}

// Then CRIU runs in the tree's ipc namespace and has none to dump, which would take it 5 ms.
bool CheckpointRun::has_nothing_of_ipc(const Processes& processes) {
  static const auto fresh = sys::fresh_ipc_state();
  if (!fresh || processes.empty()) return false;
  auto state = sys::ipc_state(processes.front().second);
  return state && *state == *fresh;
}

// All tasks are stopped. Beside CRIU, which dumps them now.
void CheckpointRun::note_while_stopped() {
  auto processes = sandbox_.processes();
  if (!processes) {
    noted_ = fail(std::move(processes).error());
    return;
  }
  await_reader_ = events_.worth_another_try(*processes);
  if (await_reader_) return;
  if (memory_) memory_->when_stopped(*processes);
  note_attributes(*processes);
  still_without_ipc_ = without_ipc_ && has_nothing_of_ipc(*processes);
  files_.when_stopped(sandbox_, *processes, directory_, unforeseen());
}

void CheckpointRun::note_attributes(const Processes& processes) {
  auto node_cpus = sys::allowed_cpus(sandbox_.init_pid());
  for (auto [inner, pid] : processes) {
    auto attributes = sys::read_process_attributes(pid);
    if (!attributes) continue;  // a zombie
    // A thread that may run on all processors here may do so elsewhere.
    for (auto& thread : attributes->threads)
      if (node_cpus && thread.cpus == *node_cpus) thread.cpus.clear();
    record_.attributes.push_back(std::move(*attributes));
  }
}

Status CheckpointRun::capture() {
  BATON_TRY(auto processes, sandbox_.processes());
  auto& steps = record_.info.steps;
  if (!when_stopped_->finish(hasty_)) note_while_stopped();
  steps.overlap_us = lap_us();
  BATON_CHECK(noted_);
  if (await_reader_) {
    events_unread_ = true;
    return fail(ErrorCode::Unavailable, "the program has inotify events that it has not read yet");
  }
  if (without_ipc_ && !still_without_ipc_) {
    mistaken_ = true;
    return fail(ErrorCode::Unavailable, "System V objects came to be just before the freeze");
  }
  if (memory_) {
    BATON_CHECK(memory_->in_freeze(processes));
    steps.frozen_pages = memory_->frozen_pages();
  }
  steps.memory_us = lap_us();
  BATON_CHECK(archive_trees(processes));
  steps.files_us = lap_us();
  struct stat output {};
  if (::stat(sandbox_.output_file().c_str(), &output) == 0)
    record_.info.output_bytes = static_cast<std::uint64_t>(output.st_size);
  return {};
}

Status CheckpointRun::archive_trees(const Processes& processes) {
  BATON_CHECK(files_.in_freeze(sandbox_, processes, directory_, record_.trees, unforeseen()));
  const PrivateFileStats& stats = files_.stats();
  record_.info.steps.frozen_file_bytes = stats.frozen_bytes;
  record_.info.steps.unread_file_bytes = stats.unread_bytes;
  record_.info.new_file_bytes = stats.new_bytes;
  return {};
}

Status CheckpointRun::complete(bool held) {
  // A held job stands still yet, so that is looked at beside the rest.
  known_rightly_ = std::async(held ? std::launch::async : std::launch::deferred,
                              [this] { return !memory_ || memory_->held_true(); });
  if (!held) BATON_CHECK(confirm());
  BATON_CHECK(move_images());
  BATON_CHECK(files_.save(directory_));
  BATON_CHECK(save_memory(held));
  BATON_CHECK(criu::mend_timers(directory_ / "images"));
  BATON_TRY(auto summary, criu::summarize_images(directory_ / "images"));
  BATON_TRY(record_.base_files, find_base_files(summary));
  BATON_CHECK(store_base_files());
  utsname kernel{};
  ::uname(&kernel);
  record_.kernel = kernel.release;
  record_.hostname = sandbox_.spec().hostname;
  record_.root_pid = sandbox_.root_pid_inner();
  record_.command_pid = sandbox_.command_pid_inner();
  auto& info = record_.info;
  info.process_count = static_cast<std::uint32_t>(summary.processes.size());
  for (const auto& process : summary.processes) {
    record_.pids.push_back(process.pid);
    for (pid_t thread : process.threads)
      if (thread != process.pid) record_.pids.push_back(thread);
    info.thread_count +=
        static_cast<std::uint32_t>(std::max<std::size_t>(1, process.threads.size()));
  }
  info.shape = join(summary.features);
  info.size_bytes = tree_bytes(directory_);
  info.steps.completion_us = lap_us();
  info.total_us = (lap_ns_ - started_ns_) / 1000;
  completed_ = true;
  return write_record(directory_, record_);
}

Status CheckpointRun::confirm() {
  if (known_rightly_.valid()) mistaken_ = !known_rightly_.get();
  if (!mistaken_) return {};
  return fail(ErrorCode::Unavailable, "the program gave advice on its memory just now (madvise)");
}

Status CheckpointRun::save_memory(bool held) {
  auto& info = record_.info;
  info.memory = memory_ ? memory_->description() : "full: tracking is off";
  if (!memory_) return {};
  BATON_CHECK(memory_->save(directory_, held));
  const SavedMemory* saved = &memory_->saved();
  if (soft_dirty_ && !memory_->active()) {
    BATON_CHECK(soft_dirty_->save(directory_, held));
    saved = &soft_dirty_->saved();
    info.memory = soft_dirty_->description();
    info.steps.frozen_pages = soft_dirty_->dumped_pages();
  }
  info.memory_bytes = saved->pages * sys::page_bytes;
  info.new_memory_bytes = saved->new_bytes;
  return {};
}

// CRIU has its log and its statistics open still when the job is held: they are left behind.
Status CheckpointRun::move_images() {
  std::vector<fs::path> images;
  for (const auto& folder : {sandbox_.quick_images_directory(), sandbox_.images_directory()}) {
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(folder, error))
      if (entry.path().extension() == ".img") images.push_back(entry.path());
    // An older sandbox has no quick one.
    if (error && error != std::errc::no_such_file_or_directory)
      return fail_errno(folder.string(), error.value());
  }
  for (const auto& image : images)
    BATON_CHECK(move_file(image, directory_ / "images" / image.filename()));
  return {};
}

Result<std::vector<BaseFileRecord>> CheckpointRun::find_base_files(
    const criu::ImageSummary& summary) {
  BATON_TRY(auto mountinfo, sys::read_file(fmt::format("/proc/{}/mountinfo", sandbox_.init_pid())));
  auto mounts = sys::parse_mountinfo(mountinfo);
  auto on_overlay = [&](const std::string& path) {
    const sys::Mount* covering = nullptr;
    for (const auto& mount : mounts) {
      const std::string& target = mount.target.native();
      bool within =
          target == "/" || path == target ||
          (path.starts_with(target) && path.size() > target.size() && path[target.size()] == '/');
      if (within && (!covering || target.size() >= covering->target.native().size()))
        covering = &mount;
    }
    return covering && covering->type == "overlay";
  };
  BaseView view(sandbox_.spec().base, sandbox_.private_trees());
  return record_base_files(summary.files, view, on_overlay, cache_);
}

Status CheckpointRun::store_base_files() {
  fs::path folder = directory_ / "base-files";
  BATON_CHECK(sys::make_directories(folder, 0700));
  BaseView view(sandbox_.spec().base, sandbox_.private_trees());
  for (const auto& file : record_.base_files) {
    if (file.is_directory || fs::exists(folder / file.hash)) continue;
    BATON_CHECK(cache_.provide(view.locate(file.path).lower, file.hash, folder / file.hash));
  }
  return {};
}

Error CheckpointRun::explain_failure(const Error& error, const criu::Session& session) {
  fs::path log_path = sandbox_.images_directory() / log_name;
  std::string log = criu::read_log(log_path);
  fs::path kept = sandbox_.spec().directory / "criu-dump.log";
  if (auto moved = move_file(log_path, kept); !moved && !log.empty())
    spdlog::warn("keep CRIU's log: {}", moved.error().message());
  if (session.worker_died()) {
    // Before it was told to begin, CRIU touches nothing.
    std::string damage = freeze_started_ns_ != 0 ? find_damage(roll_) : std::string();
    if (damage.empty()) {
      if (auto told = sandbox_.declare_unharmed(); !told)
        spdlog::debug("after CRIU's death: {}", told.error().message());
      return Error(error.code(), error.message() + "; the job was not harmed");
    }
    return Error(ErrorCode::Damaged,
                 fmt::format("{}, and left the job in a state that can't be trusted ({})",
                             error.message(), damage));
  }
  // An error of ours (a full disk, a refused file) rather than CRIU's.
  bool is_criu = error.code() == ErrorCode::Internal &&
                 (error.message() == session.criu_message() || error.message() == "dump failed");
  if (!is_criu) return error;
  auto processes = sandbox_.processes();
  std::string cause = processes ? find_refusal(log, *processes) : std::string();
  auto explanation = cause.empty()
                         ? criu::explain(criu::Operation::Dump, session.criu_message(), log)
                         : criu::explain_line(criu::Operation::Dump, cause);
  // A disk that is full swallows CRIU's log as well, and with it the reason.
  if (explanation.code == ErrorCode::Internal && free_bytes(directory_.parent_path()) < (1u << 20))
    return Error(ErrorCode::NoSpace,
                 fmt::format("write {}: no space left on the disk", directory_.string()));
  return Error(explanation.code, explanation.text);
}

}  // namespace baton::agent
