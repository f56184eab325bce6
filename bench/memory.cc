// The memory part of a checkpoint alone, without CRIU: what tracking, pre-copy and the copy in the
// freeze take, for a plain process that is stopped by a signal instead of by CRIU.
//
//   memory [--mb N] [--percent-per-s P] [--threads N] [--interval-ms N] [--count N]
//          [--directory DIR] [--json FILE]
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "agent/engine/memory_save.h"
#include "agent/engine/tracker.h"
#include "base/clock.h"
#include "sys/file.h"
#include "sys/process.h"

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
  fs::path directory = "/var/tmp";
  std::string json_file;
};

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
    else if (name == "--directory")
      options.directory = value;
    else if (name == "--json")
      options.json_file = value;
    else
      return false;
  }
  return argc % 2 == 1 && options.count > 0;
}

// Ends with this object.
class Workload {
 public:
  static Result<Workload> start(const Options& options, const fs::path& folder) {
    auto ready = folder / "ready";
    if (::mkfifo(ready.c_str(), 0600) != 0) return fail_errno("mkfifo");
    auto program = fs::read_symlink("/proc/self/exe").parent_path() / "programs" / "memwork";
    double pages_per_ms = static_cast<double>(options.mb) * 256 * options.percent_per_s / 1e5;
    BATON_TRY(auto spawned,
              sys::spawn({.program = program,
                          .argv = {program, "--mb", std::to_string(options.mb), "--threads",
                                   std::to_string(options.threads), "--pages-per-ms",
                                   std::to_string(pages_per_ms), "--ready", ready}}));
    Workload workload(std::move(spawned));
    BATON_TRY(Fd reader, sys::open_file(ready, O_RDONLY));
    char byte;
    if (::read(reader.get(), &byte, 1) != 1)
      return fail(ErrorCode::Internal, "the workload does not start");
    return workload;
  }
  Workload(Workload&&) = default;
  ~Workload() {
    if (!process_.pidfd.valid()) return;
    (void)process_.pidfd.signal(SIGKILL);
    (void)process_.pidfd.wait_ended(std::nullopt);
    process_.pidfd.reap();
  }
  pid_t pid() const { return process_.pid; }
  Status stop() {
    BATON_CHECK(process_.pidfd.signal(SIGSTOP));
    int status = 0;
    if (::waitpid(process_.pid, &status, WUNTRACED) < 0) return fail_errno("wait for the stop");
    return {};
  }
  Status resume() { return process_.pidfd.signal(SIGCONT); }

 private:
  explicit Workload(sys::Spawned process) : process_(std::move(process)) {}
  sys::Spawned process_;
};

double ms_since(std::int64_t& from_ns) {
  std::int64_t now_ns = boot_time_ns();
  return static_cast<double>(now_ns - std::exchange(from_ns, now_ns)) / 1e6;
}

Result<json> measure(const Options& options, const fs::path& folder) {
  BATON_TRY(auto workload, Workload::start(options, folder));
  BATON_TRY(auto tracker, Tracker::create({.packs_directory = folder / "packs"}));
  const pid_t pids[] = {workload.pid()};
  json samples = json::array();
  for (int i = 0; i <= options.count; ++i) {
    std::int64_t at_ns = boot_time_ns();
    json sample;
    BATON_CHECK(tracker->refresh(pids));
    sample["refresh_ms"] = ms_since(at_ns);
    BATON_TRY(auto precopy, tracker->precopy());
    sample["precopy_ms"] = ms_since(at_ns);
    sample["precopy_pages"] = precopy.pages_per_round;
    BATON_CHECK(workload.stop());
    sample["stop_ms"] = ms_since(at_ns);
    auto memory = tracker->copy_rest(pids);
    sample["copy_rest_ms"] = ms_since(at_ns);
    BATON_CHECK(workload.resume());
    if (!memory) return fail(std::move(memory).error());
    if (memory->empty()) return fail(ErrorCode::Unfit, tracker->report().front().reason);
    sample["rest_pages"] = tracker->frozen_pages();
    sample["all_pages"] = memory->front().pages.pages();
    at_ns = boot_time_ns();
    BATON_CHECK(tracker->settle());
    sample["settle_ms"] = ms_since(at_ns);
    fs::path checkpoint = folder / "checkpoint";
    BATON_TRY(auto saved, tracker->save(*memory, {{pids[0], pids[0]}}, checkpoint, true));
    sample["save_ms"] = ms_since(at_ns);
    sample["new_bytes"] = saved.new_bytes;
    BATON_CHECK(sys::remove_tree(checkpoint));
    samples.push_back(sample);
    std::this_thread::sleep_for(std::chrono::milliseconds(options.interval_ms));
  }
  return samples;
}

double median(const json& samples, const char* figure) {
  std::vector<double> values;
  for (std::size_t i = 1; i < samples.size(); ++i) values.push_back(samples[i][figure]);
  std::ranges::sort(values);
  return values[values.size() / 2];
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  if (!parse(argc, argv, options)) {
    fmt::print(stderr, "memory: see the head of bench/memory.cc for its options\n");
    return 2;
  }
  std::string folder = options.directory / "baton-bench-XXXXXX";
  if (!::mkdtemp(folder.data())) return 1;
  auto samples = measure(options, folder);
  (void)sys::remove_tree(folder);
  if (!samples) {
    fmt::print(stderr, "memory: {}\n", samples.error().message());
    return 1;
  }
  // The first one copies everything.
  json report = {{"mb", options.mb},
                 {"percent_per_s", options.percent_per_s},
                 {"interval_ms", options.interval_ms},
                 {"first", samples->front()}};
  for (const char* figure : {"refresh_ms", "precopy_ms", "stop_ms", "copy_rest_ms", "settle_ms",
                             "save_ms", "rest_pages", "new_bytes"})
    report["median"][figure] = median(*samples, figure);
  fmt::print("{}\n", report.dump(2));
  report["samples"] = *samples;
  if (!options.json_file.empty()) std::ofstream(options.json_file) << report.dump(2) << "\n";
  return 0;
}
