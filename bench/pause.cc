// How long a program stands still because of a checkpoint, seen by itself, and what it costs it.
//
//   bench_pause [--json FILE] [--criu PREFIX] [--directory DIR] [--tmpfs DIR]
//       all cases that the project has bars for, with the peers: stock CRIU, and DMTCP if it is
//       installed. Exit status 1 when a figure could not be measured.
//   bench_pause --mb N [--percent-per-s P] [--threads N] [--processes N] [--interval-ms N]
//       [--count N] [--ways baton,full,stock,dmtcp] …
//       one case.
//
// `memwork` (in programs/ beside this program) fills N MiB and writes P percent of its pages per
// second at random places. It is checkpointed at each interval and notes the largest gap between
// two of its iterations; how many of these it gets done is its throughput. Needs root.
#include <fmt/format.h>
#include <unistd.h>

#include <fstream>
#include <sstream>

#include "base/log.h"
#include "pause/reach.h"

namespace {

using namespace baton;
using namespace baton::bench;
namespace fs = std::filesystem;
using nlohmann::json;

struct Options {
  WorkloadShape shape;
  SeriesPlan plan;
  Places places{
      .criu_prefix = build_directory() / "criu", .directory = "/var/tmp", .tmpfs = "/dev/shm"};
  std::string ways = "baton,stock";
  std::string json_file;
  bool single = false;
};

bool parse(int argc, char** argv, Options& options) {
  for (int i = 1; i + 1 < argc; i += 2) {
    std::string name = argv[i], value = argv[i + 1];
    options.single |= name == "--mb";
    if (name == "--mb")
      options.shape.mb = std::stoul(value);
    else if (name == "--percent-per-s")
      options.shape.percent_per_s = std::stod(value);
    else if (name == "--threads")
      options.shape.threads = static_cast<unsigned>(std::stoul(value));
    else if (name == "--processes")
      options.shape.processes = static_cast<unsigned>(std::stoul(value));
    else if (name == "--interval-ms")
      options.plan.interval_ms = std::stoi(value);
    else if (name == "--count")
      options.plan.count = std::stoi(value);
    else if (name == "--ways")
      options.ways = value;
    else if (name == "--criu")
      options.places.criu_prefix = value;
    else if (name == "--directory")
      options.places.directory = value;
    else if (name == "--tmpfs")
      options.places.tmpfs = value;
    else if (name == "--json")
      options.json_file = value;
    else
      return false;
  }
  return argc % 2 == 1 && options.plan.count > 0;
}

Result<std::unique_ptr<Way>> start(const std::string& way, const Options& options) {
  if (way == "baton") return start_baton(options.shape, options.places, true);
  if (way == "full") return start_baton(options.shape, options.places, false);
  if (way == "stock") return start_stock_criu(options.shape, options.places);
  if (way == "dmtcp") return start_dmtcp(options.shape, options.places);
  return fail(ErrorCode::InvalidArgument, "there is no such way");
}

int run_single(const Options& options, json& report) {
  std::istringstream names(options.ways);
  int status = 0;
  for (std::string name; std::getline(names, name, ',');) {
    auto work = [&]() -> Status {
      BATON_TRY(auto way, start(name, options));
      BATON_TRY(auto series, run_series(*way, options.plan));
      print(fmt::format("{} MiB", options.shape.mb), name, series);
      report["ways"][name] = series.to_json();
      return {};
    };
    if (auto outcome = work(); !outcome) {
      fmt::print(stderr, "{}: {}\n", name, outcome.error().message());
      status = 1;
    }
  }
  return status;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  if (!parse(argc, argv, options)) {
    fmt::print(stderr, "bench_pause: see the head of bench/pause.cc for its options\n");
    return 2;
  }
  log_init("bench", "warn");
  json report = {{"environment", environment()}};
  report["environment"]["dmtcp"] = have_dmtcp() ? "installed" : "not installed";
  int status = 0;
  if (options.single) {
    status = run_single(options, report);
  } else {
    report.update(run_reach(options.places));
    for (const auto& cell : report["reach"]) status |= cell["value"].is_null() ? 1 : 0;
  }
  if (!options.json_file.empty()) std::ofstream(options.json_file) << report.dump(2) << "\n";
  return status;
}
