#include <unistd.h>

#include <cstdlib>

#include "agent/sandbox.h"
#include "pause/ways.h"
#include "sys/file.h"
#include "sys/pagemap.h"

namespace baton::bench {
namespace {

namespace fs = std::filesystem;
using namespace baton::agent;

double to_ms(std::int64_t us) { return static_cast<double>(us) / 1e3; }

class BatonWay : public Way {
 public:
  BatonWay(ScratchDirectory scratch, std::unique_ptr<Engine> engine,
           std::unique_ptr<Sandbox> sandbox)
      : scratch_(std::move(scratch)), engine_(std::move(engine)), sandbox_(std::move(sandbox)) {}
  ~BatonWay() override {
    auto place = sandbox_->spec().directory;
    (void)sandbox_->kill();
    sandbox_.reset();
    (void)Sandbox::remove(place);
  }

  Status start(const WorkloadShape& shape) {
    BATON_CHECK(sandbox_->set_die_with_agent(true));
    CommandSpec command;
    command.argv = memwork_command(shape, "/mnt/stats");
    BATON_CHECK(sandbox_->start(command));
    BATON_CHECK(await_ready(sandbox_->output_file()));
    BATON_TRY(auto figures, WorkloadFigures::map(scratch_.path() / "shared" / "stats"));
    figures_.emplace(std::move(figures));
    return {};
  }

  Result<Taken> checkpoint() override {
    fs::path directory = scratch_.path() / "checkpoint";
    BATON_TRY(auto info, engine_->checkpoint(*sandbox_, directory));
    Taken taken{.frozen_ms = to_ms(info.frozen_us),
                .criu_frozen_ms = criu_frozen_ms(sandbox_->images_directory()),
                .total_ms = to_ms(info.total_us),
                .memory = info.memory,
                .steps = info.steps};
    bool tracked = info.memory.starts_with("tracked");
    taken.captured_bytes =
        tracked ? (info.steps.precopied_pages + info.steps.frozen_pages) * sys::page_bytes
                : info.size_bytes;
    BATON_CHECK(sys::remove_tree(directory));
    return taken;
  }
  WorkloadFigures& figures() override { return *figures_; }

 private:
  ScratchDirectory scratch_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<Sandbox> sandbox_;
  std::optional<WorkloadFigures> figures_;
};

}  // namespace

Result<std::unique_ptr<Way>> start_baton(const WorkloadShape& shape, const Places& places,
                                         bool tracked) {
  BATON_TRY(auto scratch, ScratchDirectory::make(places.directory));
  const fs::path folder = scratch.path();
  BATON_TRY(auto engine,
            make_engine({.cache_directory = folder / "cache", .track_memory = tracked}));
  SandboxSpec spec;
  spec.job = JobId(1);
  spec.generation = Generation(1);
  spec.directory = folder / "sandbox";
  spec.base = "/";
  spec.criu_prefix = places.criu_prefix;
  spec.hostname = "bench";
  spec.criu_kdat_cache = folder / "kdat";
  BATON_CHECK(sys::make_directories(folder / "shared"));
  spec.volumes = {{folder / "shared", "/mnt", false}};
  BATON_TRY(auto sandbox, Sandbox::create(spec));
  auto way = std::make_unique<BatonWay>(std::move(scratch), std::move(engine), std::move(sandbox));
  BATON_CHECK(way->start(shape));
  return way;
}

}  // namespace baton::bench
