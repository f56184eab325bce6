// One workload, one way, a number of checkpoints at an interval; and the same without any.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>

#include "pause/ways.h"
#include "report.h"

namespace baton::bench {

struct SeriesPlan {
  int interval_ms = 1000;
  int count = 10;
};

struct Series {
  std::vector<double> pause_ms;  // as the program saw them
  std::vector<Taken> taken;
  double free_gap_ms = 0;  // the largest gap without checkpoints
  double interval_achieved_ms = 0;
  double throughput_lost_percent = 0;  // against as much time before and after, without any

  double pause_p50_ms() const;
  nlohmann::json to_json() const;
};

// The first checkpoint, which copies everything, goes before and is not counted.
Result<Series> run_series(Way& way, const SeriesPlan& plan);

void print(const std::string& case_name, const std::string& way, const Series& series);

// Our own memory now, and the most it was since forget_peak().
double resident_mib();
double resident_peak_mib();
void forget_peak();

}  // namespace baton::bench
