// How long a program stands still because of a checkpoint, seen by itself, and what it costs it.
//
//   pause [--mb N] [--percent-per-s P] [--threads N] [--interval-ms N] [--count N]
//         [--criu PREFIX] [--directory DIR] [--json FILE]
//
// `memwork` (which lies in programs/ beside this program) fills N MiB and writes P percent of its
// pages per second at random places. It is checkpointed at each interval in a real sandbox, first
// with tracked memory, then with a full CRIU dump, and notes the largest gap between two writes of
// one of its threads. Throughput is compared with an undisturbed run of the same length. One run
// with a first checkpoint, which copies everything, goes before and is not counted.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>
#include <vector>

#include "agent/engine/engine.h"
#include "agent/sandbox.h"
#include "base/clock.h"
#include "base/log.h"
#include "sys/file.h"

namespace {

using namespace baton;
using namespace baton::agent;
namespace fs = std::filesystem;
using nlohmann::json;

struct Options {
  std::size_t mb = 1024;
  double percent_per_s = 1;
  unsigned threads = 1;
  int interval_ms = 1000;
  int count = 10;
  fs::path criu = fs::read_symlink("/proc/self/exe").parent_path() / "criu";
  fs::path directory = "/var/tmp";
  std::string json_file;
};

// The page that memwork shares with us.
struct Stats {
  std::atomic<std::uint64_t> writes;
  std::atomic<std::int64_t> gap_max_ns;
  std::atomic<std::uint64_t> resets;
};

class Workload {
 public:
  static Result<std::unique_ptr<Workload>> start(const Options& options, const fs::path& folder) {
    SandboxSpec spec;
    spec.job = JobId(1);
    spec.generation = Generation(1);
    spec.directory = folder / "sandbox";
    spec.base = "/";
    spec.criu_prefix = options.criu;
    spec.hostname = "bench";
    spec.criu_kdat_cache = folder / "kdat";
    BATON_CHECK(sys::make_directories(folder / "shared"));
    spec.volumes = {{folder / "shared", "/mnt", false}};
    auto workload = std::make_unique<Workload>();
    BATON_TRY(workload->sandbox_, Sandbox::create(spec));
    BATON_CHECK(workload->sandbox_->set_die_with_agent(true));
    CommandSpec command;
    auto program = fs::read_symlink("/proc/self/exe").parent_path() / "programs" / "memwork";
    double pages_per_ms = static_cast<double>(options.mb) * 256 * options.percent_per_s / 1e5;
    command.argv = {program,
                    "--mb",
                    std::to_string(options.mb),
                    "--threads",
                    std::to_string(options.threads),
                    "--pages-per-ms",
                    std::to_string(pages_per_ms),
                    "--stats",
                    "/mnt/stats",
                    "--ready",
                    "-",
                    "--result",
                    "-"};
    BATON_CHECK(workload->sandbox_->start(command));
    auto output = workload->sandbox_->output_file();
    for (auto limit = boot_time_ms() + 60'000; fs::file_size(output) == 0;) {
      if (boot_time_ms() > limit) return fail(ErrorCode::TimedOut, "the workload does not start");
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    BATON_TRY(Fd file, sys::open_file(folder / "shared" / "stats", O_RDWR));
    void* page = ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
    if (page == MAP_FAILED) return fail_errno("map the workload's figures");
    workload->stats_ = static_cast<Stats*>(page);
    return workload;
  }
  ~Workload() {
    if (stats_) ::munmap(stats_, 4096);
    if (!sandbox_) return;
    auto place = sandbox_->spec().directory;
    (void)sandbox_->kill();
    sandbox_.reset();
    (void)Sandbox::remove(place);
  }
  Sandbox& sandbox() { return *sandbox_; }
  std::uint64_t writes() const { return stats_->writes; }
  void forget_gap() {
    stats_->resets++;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    stats_->gap_max_ns = 0;
  }
  double gap_ms() const { return static_cast<double>(stats_->gap_max_ns) / 1e6; }

 private:
  std::unique_ptr<Sandbox> sandbox_;
  Stats* stats_ = nullptr;
};

json percentiles(std::vector<double> samples) {
  std::ranges::sort(samples);
  auto at = [&](double share) {
    return samples[static_cast<std::size_t>(share * static_cast<double>(samples.size() - 1) + 0.5)];
  };
  return {{"p50", at(0.5)}, {"p90", at(0.9)}, {"max", samples.back()}, {"samples", samples}};
}

Result<json> measure(const Options& options, const fs::path& folder, bool tracked) {
  BATON_CHECK(sys::make_directories(folder));
  BATON_TRY(auto engine,
            make_engine({.cache_directory = folder / "cache", .track_memory = tracked}));
  BATON_TRY(auto workload, Workload::start(options, folder));
  auto checkpoint = [&]() -> Result<CheckpointInfo> {
    auto info = engine->checkpoint(workload->sandbox(), folder / "checkpoint");
    if (info) BATON_CHECK(sys::remove_tree(folder / "checkpoint"));
    return info;
  };
  auto interval = std::chrono::milliseconds(options.interval_ms);
  std::this_thread::sleep_for(interval);
  std::uint64_t before = workload->writes();
  std::int64_t began_ns = boot_time_ns();
  workload->forget_gap();
  std::this_thread::sleep_for(interval * std::min(options.count, 5));
  double free_rate = static_cast<double>(workload->writes() - before) /
                     static_cast<double>(boot_time_ns() - began_ns);
  double free_gap_ms = workload->gap_ms();
  BATON_TRY(auto first, checkpoint());
  std::vector<double> pause_ms, frozen_ms, total_ms;
  before = workload->writes();
  began_ns = boot_time_ns();
  auto due = std::chrono::steady_clock::now();
  for (int i = 0; i < options.count; ++i) {
    std::this_thread::sleep_until(due += interval);
    workload->forget_gap();
    BATON_TRY(auto info, checkpoint());
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    pause_ms.push_back(workload->gap_ms());
    frozen_ms.push_back(static_cast<double>(info.frozen_us) / 1e3);
    total_ms.push_back(static_cast<double>(info.total_us) / 1e3);
    first.memory = info.memory;
    first.size_bytes = info.size_bytes;
  }
  double rate = static_cast<double>(workload->writes() - before) /
                static_cast<double>(boot_time_ns() - began_ns);
  return json{{"memory", first.memory},
              {"pause_ms", percentiles(pause_ms)},
              {"frozen_ms", percentiles(frozen_ms)},
              {"total_ms", percentiles(total_ms)},
              {"checkpoint_bytes", first.size_bytes},
              {"gap_without_checkpoints_ms", free_gap_ms},
              {"throughput_lost_percent", 100 * (1 - rate / free_rate)}};
}

bool parse(int argc, char** argv, Options& options) {
  for (int i = 1; i + 1 < argc; i += 2) {
    std::string name = argv[i], value = argv[i + 1];
    if (name == "--mb")
      options.mb = std::stoul(value);
    else if (name == "--percent-per-s")
      options.percent_per_s = std::stod(value);
    else if (name == "--threads")
      options.threads = static_cast<unsigned>(std::stoul(value));
    else if (name == "--interval-ms")
      options.interval_ms = std::stoi(value);
    else if (name == "--count")
      options.count = std::stoi(value);
    else if (name == "--criu")
      options.criu = value;
    else if (name == "--directory")
      options.directory = value;
    else if (name == "--json")
      options.json_file = value;
    else
      return false;
  }
  return argc % 2 == 1 && options.count > 0;
}

void print(const std::string& way, const json& figures) {
  auto& pause = figures["pause_ms"];
  fmt::print(
      "{:8} pause p50 {:.1f} p90 {:.1f} max {:.1f} ms; frozen p50 {:.1f} ms; "
      "throughput lost {:.1f} %; {} MiB; memory {}\n",
      way, pause["p50"].get<double>(), pause["p90"].get<double>(), pause["max"].get<double>(),
      figures["frozen_ms"]["p50"].get<double>(), figures["throughput_lost_percent"].get<double>(),
      figures["checkpoint_bytes"].get<std::uint64_t>() >> 20, figures["memory"].get<std::string>());
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  if (!parse(argc, argv, options)) {
    fmt::print(stderr, "pause: see the head of bench/pause.cc for its options\n");
    return 2;
  }
  log_init("bench", "warn");
  std::string folder = options.directory / "baton-bench-XXXXXX";
  if (!::mkdtemp(folder.data())) return 1;
  utsname kernel{};
  ::uname(&kernel);
  json report = {{"environment",
                  {{"kernel", kernel.release}, {"processors", ::sysconf(_SC_NPROCESSORS_ONLN)}}},
                 {"mb", options.mb},
                 {"percent_per_s", options.percent_per_s},
                 {"threads", options.threads},
                 {"interval_ms", options.interval_ms}};
  int status = 0;
  for (bool tracked : {true, false}) {
    std::string way = tracked ? "tracked" : "full";
    auto figures = measure(options, fs::path(folder) / way, tracked);
    if (figures) {
      print(way, *figures);
      report["ways"][way] = *figures;
    } else {
      fmt::print(stderr, "pause: {}: {}\n", way, figures.error().message());
      status = 1;
    }
  }
  (void)sys::remove_tree(folder);
  if (!options.json_file.empty()) std::ofstream(options.json_file) << report.dump(2) << "\n";
  return status;
}
