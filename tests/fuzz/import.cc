// `baton import`: an archive of anybody's, with what it writes into a controller's store, state and
// log, and what becomes of all that when it is refused.
#include <filesystem>
#include <stop_token>
#include <string>

#include "base/clock.h"
#include "base/log.h"
#include "control/archives.h"
#include "fuzz.h"
#include "sealed_archive.h"

namespace baton::fuzz {
namespace {

namespace fs = std::filesystem;

template <typename T>
T must(Result<T> result) {
  require(result.has_value());
  return std::move(*result);
}

// What a controller has of itself, but for its servers.
class Controller {
 public:
  Controller()
      : loop_(control::State(core::Config(), must(db_->load()), boot_time_ms()), stores()) {}

  // Nothing: it was refused, as data that is wrong.
  std::optional<JobId> import(std::string_view bytes, std::size_t part_bytes, std::string name) {
    auto job = control::import_checkpoint(context_, bulk_, {std::move(name), "somebody"},
                                          [&]() -> Result<std::string> {
                                            std::string part(bytes.substr(0, part_bytes));
                                            bytes.remove_prefix(part.size());
                                            return part;
                                          },
                                          {});
    if (job) return *job;
    require(job.error().code() == ErrorCode::Damaged ||
            job.error().code() == ErrorCode::InvalidArgument);
    return std::nullopt;
  }

  std::string archive(JobId job) {
    v1::CheckpointRef ref;
    ref.mutable_job()->set_name_or_id(std::to_string(job.value));
    std::string bytes;
    require(control::export_checkpoint(context_, ref, [&](std::string_view data) {
              bytes += data;
              return Status();
            }).has_value());
    return bytes;
  }

  void require_stopped(JobId job) {
    loop_.with_lock([&](control::Loop::Locked& l) {
      const auto* record = l.state.core.find_job(job);
      require(record && record->state == core::JobState::Stopped && !record->current &&
              record->checkpoints.size() == 1);
      require(l.state.jobs.at(job).spec.owner() == "somebody");
    });
  }

  void remove(JobId job) {
    loop_.with_lock([&](control::Loop::Locked& l) {
      require(l.apply(core::RemoveJob{.request = 0, .job = job, .force = false}).reply.has_value());
    });
    require(loop_.wait_cleaned({}).has_value());
  }

  // As if there had never been an import.
  void require_clean() {
    loop_.with_lock([&](control::Loop::Locked& l) { require(l.state.jobs.empty()); });
    for (const auto& entry : fs::directory_iterator(data_ / "checkpoints"))
      require(entry.path().filename() == ".incoming");
    for (const char* folder : {"checkpoints/.incoming", "shared", "logs"})
      require(fs::is_empty(data_ / folder));
  }

 private:
  control::Loop::Stores stores() { return {*db_, *checkpoints_, *logs_, events_, ballast_}; }
  static fs::path make_folder() {
    const fs::path folder = scratch() / "controller";
    fs::create_directory(folder);
    return folder;
  }

  const fs::path data_ = make_folder();
  std::unique_ptr<control::StateDb> db_ = must(control::StateDb::open(data_ / "state.db"));
  std::unique_ptr<store::CheckpointStore> checkpoints_ = must(store::CheckpointStore::open(data_));
  std::unique_ptr<control::OutputLogs> logs_ = must(control::OutputLogs::open(data_ / "logs"));
  std::unique_ptr<control::Members> members_ = must(control::Members::open(data_));
  control::Access access_{*members_};
  control::EventLog events_;
  control::Ballast ballast_{data_};
  control::CallGroup calls_;
  control::Loop loop_;
  control::ServiceContext context_{loop_, calls_, *members_, access_, {}, 1000, 0};
  control::Bulk bulk_{context_};
};

void check(std::string_view bytes, std::size_t part_bytes, std::string name) {
  // Its threads have nothing to do when the program ends.
  static Controller& controller = [] -> Controller& {
    spdlog::set_level(spdlog::level::off);
    return *new Controller;
  }();
  const auto job = controller.import(bytes, part_bytes, std::move(name));
  if (job) {
    controller.require_stopped(*job);
    // What was taken can be given, and is taken again.
    const auto copy = controller.import(controller.archive(*job), 4096, "copy-of-it");
    require(copy.has_value());
    controller.require_stopped(*copy);
    controller.remove(*copy);
    controller.remove(*job);
  }
  controller.require_clean();
}

}  // namespace
}  // namespace baton::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace baton::fuzz;
  const std::string_view bytes = as_text(data, size);
  check(bytes, 1 + size % 100, "");
  check(seal_archive(bytes), 1 + size % 1000, "imported");
  return 0;
}
