#include "pause/reach.h"

#include <fmt/format.h>

namespace baton::bench {
namespace {

using nlohmann::json;

struct Case {
  std::string name;
  WorkloadShape shape;
  SeriesPlan plan;
  int peer_count;       // 0: no peers
  double pause_bar_ms;  // 0: none
  int peer_bar;         // at most 1/peer_bar of stock CRIU's pause; 0: none
  double lost_bar;      // percent of throughput; 0: none
};

const Case cases[] = {
    {.name = "1 GiB, 1 % per s, every 1 s",
     .shape = {.mb = 1024},
     .plan = {.interval_ms = 1000, .count = 15},
     .peer_count = 5,
     .pause_bar_ms = 12,
     .peer_bar = 40,
     .lost_bar = 3},
    {.name = "1 GiB, 1 % per s, every 100 ms",
     .shape = {.mb = 1024},
     .plan = {.interval_ms = 100, .count = 60},
     .peer_count = 0,
     .pause_bar_ms = 0,
     .peer_bar = 0,
     .lost_bar = 15},
    {.name = "4 GiB, 1 % per s, every 1 s",
     .shape = {.mb = 4096},
     .plan = {.interval_ms = 1000, .count = 7},
     .peer_count = 3,
     .pause_bar_ms = 30,
     .peer_bar = 60,
     .lost_bar = 0},
    {.name = "64 threads, 256 MiB",
     .shape = {.mb = 256, .threads = 64},
     .plan = {.interval_ms = 1000, .count = 10},
     .peer_count = 5,
     .pause_bar_ms = 0,
     .peer_bar = 5,
     .lost_bar = 0},
    {.name = "8 processes of 128 MiB, a pipe and a shm segment",
     .shape = {.mb = 128, .processes = 8},
     .plan = {.interval_ms = 1000, .count = 10},
     .peer_count = 5,
     .pause_bar_ms = 0,
     .peer_bar = 10,
     .lost_bar = 0},
};

constexpr double memory_bar_mib = 64;
// An interval that was not kept says nothing about what checkpoints at that interval cost.
constexpr double interval_slack = 1.1;

template <typename Start>
std::optional<Series> run_way(const Case& one, const std::string& name, int count, Start start,
                              json& ways) {
  auto work = [&]() -> Result<Series> {
    BATON_TRY(auto way, start());
    return run_series(*way, {.interval_ms = one.plan.interval_ms, .count = count});
  };
  auto series = work();
  if (!series) {
    fmt::print("{}, {}: {}\n", one.name, name, series.error().message());
    ways[name] = {{"error", series.error().message()}};
    return {};
  }
  print(one.name, name, *series);
  ways[name] = series->to_json();
  return std::move(*series);
}

void add_cells(const Case& one, const std::optional<Series>& ours,
               const std::optional<Series>& stock, Reach& reach) {
  if (one.pause_bar_ms > 0) {
    std::optional<double> pause;
    if (ours) pause = ours->pause_p50_ms();
    reach.add(one.name, "pause, median", pause, "ms", fmt::format("<= {:.0f}", one.pause_bar_ms),
              pause.value_or(0) <= one.pause_bar_ms);
  }
  if (one.peer_bar > 0) {
    std::optional<double> times;
    if (ours && stock) times = stock->pause_p50_ms() / ours->pause_p50_ms();
    reach.add(one.name, "stock CRIU's pause / ours, medians", times, "times",
              fmt::format(">= {}", one.peer_bar), times.value_or(0) >= one.peer_bar);
  }
  if (one.lost_bar > 0) {
    std::optional<double> lost;
    if (ours) lost = ours->throughput_lost_percent;
    bool kept = ours && ours->interval_achieved_ms <= one.plan.interval_ms * interval_slack;
    reach.add(one.name, "throughput lost", lost, "%",
              fmt::format("<= {:.0f}, interval kept", one.lost_bar),
              kept && lost.value_or(100) <= one.lost_bar);
  }
}

}  // namespace

json run_reach(const Places& places) {
  json report = {{"cases", json::array()}};
  Reach reach;
  double memory_mib = 0;
  for (const Case& one : cases) {
    json ways = json::object();
    forget_peak();
    double before_mib = resident_mib();
    auto ours = run_way(
        one, "baton", one.plan.count, [&] { return start_baton(one.shape, places, true); }, ways);
    double grown_mib = resident_peak_mib() - before_mib;
    memory_mib = std::max(memory_mib, grown_mib);
    std::optional<Series> stock;
    if (one.peer_count > 0) {
      stock = run_way(
          one, "stock criu", one.peer_count, [&] { return start_stock_criu(one.shape, places); },
          ways);
      if (have_dmtcp())
        run_way(
            one, "dmtcp", one.peer_count, [&] { return start_dmtcp(one.shape, places); }, ways);
    }
    report["cases"].push_back({{"case", one.name},
                               {"mb", one.shape.mb},
                               {"percent_per_s", one.shape.percent_per_s},
                               {"threads", one.shape.threads},
                               {"processes", one.shape.processes},
                               {"interval_ms", one.plan.interval_ms},
                               {"agent_memory_mib", grown_mib},
                               {"ways", ways}});
    add_cells(one, ours, stock, reach);
  }
  reach.add("all of them", "agent's memory, peak of this process above its start", memory_mib,
            "MiB", fmt::format("<= {:.0f}", memory_bar_mib), memory_mib <= memory_bar_mib);
  reach.print();
  report["reach"] = reach.cells();
  return report;
}

}  // namespace baton::bench
