#include "pause/series.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <thread>

#include "base/clock.h"
#include "sys/process_attributes.h"

namespace baton::bench {
namespace {

using nlohmann::json;

struct Step {
  const char* name;
  std::int64_t agent::CheckpointSteps::*us;
  bool frozen;
};
constexpr Step steps[] = {{"file_precopy", &agent::CheckpointSteps::file_precopy_us, false},
                          {"precopy", &agent::CheckpointSteps::precopy_us, false},
                          {"launch", &agent::CheckpointSteps::launch_us, false},
                          {"metadata", &agent::CheckpointSteps::metadata_us, true},
                          {"overlap", &agent::CheckpointSteps::overlap_us, true},
                          {"memory", &agent::CheckpointSteps::memory_us, true},
                          {"files", &agent::CheckpointSteps::files_us, true},
                          {"resume", &agent::CheckpointSteps::resume_us, true},
                          {"completion", &agent::CheckpointSteps::completion_us, false}};

json summary(const std::vector<double>& samples) {
  return {{"p50", percentile(samples, 0.5)},
          {"p90", percentile(samples, 0.9)},
          {"max", percentile(samples, 1)},
          {"samples", samples}};
}

template <typename Get>
std::vector<double> collect(const std::vector<Taken>& taken, Get get) {
  std::vector<double> samples;
  for (const Taken& one : taken) samples.push_back(get(one));
  return samples;
}

std::vector<double> step_ms(const std::vector<Taken>& taken, const Step& step) {
  return collect(taken, [&](const Taken& one) {
    return one.steps ? static_cast<double>((*one.steps).*step.us) / 1e3 : 0;
  });
}

struct Rate {
  std::uint64_t iterations = 0;
  std::int64_t ns = 0;
  double value() const {
    return ns ? static_cast<double>(iterations) / static_cast<double>(ns) : 0;
  }
};

template <typename Work>
Status measure_rate(Way& way, Rate& rate, Work work) {
  std::uint64_t before = way.figures().iterations();
  std::int64_t began_ns = boot_time_ns();
  Status outcome = work();
  rate.ns += boot_time_ns() - began_ns;
  rate.iterations += way.figures().iterations() - before;
  return outcome;
}

double status_mib(std::string_view field) {
  auto kib = sys::status_field(::getpid(), field);
  return kib ? static_cast<double>(std::strtoull(kib->c_str(), nullptr, 10)) / 1024 : 0;
}

}  // namespace

double Series::pause_p50_ms() const { return percentile(pause_ms, 0.5); }

json Series::to_json() const {
  json value = {
      {"pause_ms", summary(pause_ms)},
      {"frozen_ms", summary(collect(taken, [](const Taken& one) { return one.frozen_ms; }))},
      {"criu_frozen_ms",
       summary(collect(taken, [](const Taken& one) { return one.criu_frozen_ms; }))},
      {"total_ms", summary(collect(taken, [](const Taken& one) { return one.total_ms; }))},
      {"captured_bytes",
       summary(collect(taken,
                       [](const Taken& one) { return static_cast<double>(one.captured_bytes); }))},
      {"gap_without_checkpoints_ms", free_gap_ms},
      {"interval_achieved_ms", interval_achieved_ms},
      {"throughput_lost_percent", throughput_lost_percent},
      {"memory", taken.empty() ? "" : taken.back().memory}};
  if (taken.empty() || !taken.front().steps) return value;
  for (const Step& step : steps) value["steps_ms"][step.name] = summary(step_ms(taken, step));
  value["pages_in_freeze"] = summary(collect(
      taken, [](const Taken& one) { return static_cast<double>(one.steps->frozen_pages); }));
  return value;
}

Result<Series> run_series(Way& way, const SeriesPlan& plan) {
  Series series;
  const std::chrono::milliseconds interval(plan.interval_ms);
  const auto free_time = std::clamp<std::chrono::milliseconds>(
      interval * plan.count / 2, std::chrono::seconds(2), std::chrono::seconds(5));
  Rate free, busy;
  auto run_free = [&] {
    return measure_rate(way, free, [&]() -> Status {
      std::this_thread::sleep_for(free_time);
      return {};
    });
  };
  way.figures().forget_gap();
  BATON_CHECK(run_free());
  series.free_gap_ms = way.figures().gap_ms();
  BATON_TRY([[maybe_unused]] Taken first, way.checkpoint());
  std::int64_t began_ns = boot_time_ns();
  BATON_CHECK(measure_rate(way, busy, [&]() -> Status {
    auto due = std::chrono::steady_clock::now();
    for (int i = 0; i < plan.count; ++i) {
      due = std::max(due + interval, std::chrono::steady_clock::now());
      std::this_thread::sleep_until(due);
      way.figures().forget_gap();
      BATON_TRY(Taken taken, way.checkpoint());
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
      series.pause_ms.push_back(way.figures().gap_ms());
      series.taken.push_back(std::move(taken));
    }
    // The last interval is as long as the others.
    std::this_thread::sleep_until(due + interval);
    return {};
  }));
  series.interval_achieved_ms =
      static_cast<double>(boot_time_ns() - began_ns) / 1e6 / (plan.count + 1);
  BATON_CHECK(run_free());
  series.throughput_lost_percent = 100 * (1 - busy.value() / free.value());
  return series;
}

void print(const std::string& case_name, const std::string& way, const Series& series) {
  auto ms = [](const std::vector<double>& samples) {
    return fmt::format("{:.1f} / {:.1f} / {:.1f} ms", percentile(samples, 0.5),
                       percentile(samples, 0.9), percentile(samples, 1));
  };
  fmt::print("{}, {} (p50 / p90 / max)\n", case_name, way);
  fmt::print("  pause {}; frozen for CRIU {}; in all {}\n", ms(series.pause_ms),
             ms(collect(series.taken, [](const Taken& one) { return one.criu_frozen_ms; })),
             ms(collect(series.taken, [](const Taken& one) { return one.total_ms; })));
  fmt::print(
      "  throughput lost {:.1f} % at an interval of {:.0f} ms; {:.1f} MiB captured; memory {}\n",
      series.throughput_lost_percent, series.interval_achieved_ms,
      percentile(collect(series.taken,
                         [](const Taken& one) {
                           return static_cast<double>(one.captured_bytes) / (1 << 20);
                         }),
                 0.5),
      series.taken.back().memory);
  if (series.taken.front().steps) {
    std::string text;
    for (const Step& step : steps)
      text += fmt::format("{}{}{} {:.2f}", text.empty() ? "" : ", ", step.frozen ? "*" : "",
                          step.name, percentile(step_ms(series.taken, step), 0.5));
    fmt::print("  steps in ms (* frozen): {}\n", text);
  }
  std::fflush(stdout);
}

double resident_mib() { return status_mib("VmRSS"); }
double resident_peak_mib() { return status_mib("VmHWM"); }
void forget_peak() { std::ofstream("/proc/self/clear_refs") << "5"; }

}  // namespace baton::bench
