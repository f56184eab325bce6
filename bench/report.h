// What every benchmark here writes: the environment, samples, and `reach`, the cells that the
// project has bars for.
#pragma once

#include <fmt/format.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

namespace baton::bench {

inline nlohmann::json environment() {
  utsname kernel{};
  ::uname(&kernel);
  double load[3] = {};
  ::getloadavg(load, 3);
  return {{"kernel", kernel.release},
          {"processors", ::sysconf(_SC_NPROCESSORS_ONLN)},
          {"memory_mib", (::sysconf(_SC_PHYS_PAGES) * ::sysconf(_SC_PAGESIZE)) >> 20},
          {"load_before", load[0]}};
}

// Nearest rank; 0 of nothing.
inline double percentile(std::vector<double> samples, double share) {
  if (samples.empty()) return 0;
  std::ranges::sort(samples);
  return samples[static_cast<std::size_t>(share * static_cast<double>(samples.size() - 1) + 0.5)];
}

class Reach {
 public:
  // `value` unset: it could not be measured.
  void add(const std::string& case_name, const std::string& figure, std::optional<double> value,
           const std::string& unit, const std::string& bar, bool holds) {
    cells_.push_back({{"case", case_name},
                      {"figure", figure},
                      {"value", value ? nlohmann::json(*value) : nlohmann::json(nullptr)},
                      {"unit", unit},
                      {"bar", bar},
                      {"holds", value && holds}});
  }
  const nlohmann::json& cells() const { return cells_; }

  void print() const {
    fmt::print("\n");
    for (const auto& cell : cells_)
      fmt::print("{}  {}: {} {} {} ({})\n", cell["holds"].get<bool>() ? "holds" : "FAILS",
                 cell["case"].get<std::string>(), cell["figure"].get<std::string>(),
                 cell["value"].is_null() ? "not measured"
                                         : fmt::format("{:.1f}", cell["value"].get<double>()),
                 cell["unit"].get<std::string>(), cell["bar"].get<std::string>());
  }
  // Something could not be measured.
  bool lacks_any() const {
    return std::ranges::any_of(cells_, [](const auto& cell) { return cell["value"].is_null(); });
  }

 private:
  nlohmann::json cells_ = nlohmann::json::array();
};

}  // namespace baton::bench
