#include "agent/engine/engine.h"

#include <algorithm>
#include <set>
#include <sstream>
#include <thread>

#include "agent/engine/base_files.h"
#include "agent/engine/checkpoint_layout.h"
#include "agent/engine/checkpoint_run.h"
#include "agent/engine/per_sandbox.h"
#include "agent/engine/private_files.h"
#include "agent/engine/restore_run.h"
#include "base/log.h"
#include "store/tree_archive.h"
#include "sys/file.h"

namespace baton::agent {
namespace {

namespace fs = std::filesystem;

class CriuEngine : public Engine {
 public:
  explicit CriuEngine(EngineOptions options)
      : options_(std::move(options)), cache_(options_.cache_directory) {}

  Result<CheckpointInfo> checkpoint(Sandbox& sandbox, const fs::path& directory) override {
    return take(sandbox, directory, {});
  }

  Result<CheckpointInfo> checkpoint_and_hold(
      Sandbox& sandbox, const fs::path& directory,
      const std::function<HoldVerdict(const HeldCheckpoint&)>& while_frozen) override {
    return take(sandbox, directory, while_frozen);
  }

  Result<RestorePlan> prepare(const fs::path& directory, const fs::path& base) override {
    BATON_TRY(auto record, read_record(directory));
    RestorePlan plan;
    plan.info = record.info;
    plan.hostname = record.hostname;
    std::vector<std::string> names;
    for (const auto& tree : record.trees) names.push_back(tree.name);
    plan.overlay_paths = overlay_paths(names);
    plan.read_ahead = std::make_shared<ReadAhead>(directory);
    plan.populate_uppers = [this, directory, base,
                            record = std::move(record)](const auto& folders) {
      return populate(directory, base, record, folders);
    };
    return plan;
  }

  Result<void> restore(Sandbox& sandbox, const fs::path& directory, const RestoreOptions& options,
                       std::string* log_tail) override {
    RestoreRun run(sandbox, directory, options_);
    BATON_CHECK(run.run(options, log_tail));
    if (options.leave_stopped_then_kill) return {};
    auto restored = restored_.of(sandbox);
    restored->memory = run.take_lazy_memory();
    restored->checkpoint = directory;  // looked at before the next one: the job needs the node now
    return {};
  }

  void build_on(Sandbox& sandbox, const fs::path& directory) override {
    files_.of(sandbox)->build_on(directory);
    if (options_.track_memory) memories_.of(sandbox)->build_on(directory);
  }

  Status finish_restore(Sandbox& sandbox) override {
    auto restored = restored_.of(sandbox);
    if (!restored->memory) return {};
    BATON_CHECK_CTX(restored->memory->finish(), "bring back its memory");
    restored->memory.reset();
    return {};
  }

  void copy_anew(Sandbox& sandbox) override {
    restored_.of(sandbox)->checkpoint.clear();
    files_.of(sandbox)->forget();
    if (options_.track_memory) memories_.of(sandbox)->release();
    soft_dirty_.of(sandbox)->forget();
  }

 private:
  Result<CheckpointInfo> take(Sandbox& sandbox, const fs::path& directory,
                              const CheckpointRun::Hold& hold) {
    BATON_CHECK(finish_restore(sandbox));
    if (auto earlier = std::exchange(restored_.of(sandbox)->checkpoint, {}); !earlier.empty())
      build_on(sandbox, earlier);
    auto memory = options_.track_memory ? memories_.of(sandbox) : nullptr;
    auto soft_dirty = memory && options_.soft_dirty ? soft_dirty_.of(sandbox) : nullptr;
    auto files = files_.of(sandbox);
    auto events = events_.of(sandbox);
    using Foreknowledge = CheckpointRun::Foreknowledge;
    auto attempt = [&](TrackedMemory* tracked, SoftDirtyMemory* marked,
                       Foreknowledge foreknowledge) {
      for (;;) {
        CheckpointRun run(sandbox, directory, options_, cache_, gate_, *files, *events, tracked,
                          marked, foreknowledge);
        auto info = run.run(hold);
        if (info || info.error().code() != ErrorCode::Unavailable) return info;
        if (!run.mistaken() && !run.events_unread()) return info;
        if (run.mistaken()) foreknowledge = Foreknowledge::None;
        spdlog::info("checkpoint is taken again: {}", info.error().message());
      }
    };
    auto info = attempt(memory.get(), soft_dirty.get(), Foreknowledge::Use);
    while (!info && soft_dirty && soft_dirty->another_try(info.error()))
      info = attempt(memory.get(), soft_dirty.get(), Foreknowledge::Use);
    if (info || !memory || !memory->failed_in_freeze()) return info;
    // The job can't be trusted any more, or all of its memory would take longer still.
    if (info.error().code() == ErrorCode::Damaged || info.error().code() == ErrorCode::TimedOut)
      return info;
    spdlog::warn("checkpoint of tracked memory failed, now without: {}", info.error().message());
    memory->release();
    return attempt(nullptr, nullptr, Foreknowledge::None);
  }

  Status populate(const fs::path& directory, const fs::path& base, const CheckpointRecord& record,
                  const std::vector<std::pair<std::string, fs::path>>& folders) {
    for (const auto& [name, folder] : folders) {
      auto tree = std::ranges::find(record.trees, name, &TreeRecord::name);
      if (tree != record.trees.end())
        BATON_CHECK(store::extract_tree(directory / tree->archive, folder,
                                        {tree->contents, directory / layout::files_folder}));
    }
    BaseView view(base, folders);
    BATON_TRY(auto supplied,
              supply_base_files(record.base_files, view, directory / "base-files", cache_));
    if (!supplied.empty())
      spdlog::info("{} files of the base came from the checkpoint, {} the first", supplied.size(),
                   supplied.front());
    return {};
  }

  const EngineOptions options_;
  BaseFileCache cache_;
  FreezeGate gate_{std::max(1u, std::thread::hardware_concurrency() / 2)};
  PerSandbox<PrivateFiles> files_{"files"};
  PerSandbox<UnreadEvents> events_{""};
  PerSandbox<TrackedMemory> memories_{"packs"};
  PerSandbox<SoftDirtyMemory> soft_dirty_{"soft-dirty"};
  struct Restored {
    explicit Restored(const fs::path&) {}
    std::unique_ptr<LazyMemory> memory;  // that still comes
    fs::path checkpoint;                 // to build on, if it is still there
  };
  PerSandbox<Restored> restored_{""};
};

std::set<std::string> words(const std::string& shape) {
  std::set<std::string> result;
  std::istringstream text(shape);
  for (std::string word; std::getline(text, word, ',');) result.insert(word);
  return result;
}

}  // namespace

bool shape_adds(std::string& known, const std::string& shape) {
  auto all = words(known);
  auto before = all.size();
  all.merge(words(shape));
  if (all.size() == before) return false;
  known.clear();
  for (const auto& word : all) known += (known.empty() ? "" : ",") + word;
  return true;
}

Result<std::unique_ptr<Engine>> make_engine(EngineOptions options) {
  BATON_CHECK(sys::make_directories(options.cache_directory, 0700));
  return std::make_unique<CriuEngine>(std::move(options));
}

}  // namespace baton::agent
