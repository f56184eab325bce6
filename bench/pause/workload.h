// The program that is put under checkpoint: `memwork`, in a sandbox or as a plain process.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"

namespace baton::bench {

// What it is like. Several threads or processes don't spin, or they would wait for each other.
struct WorkloadShape {
  std::size_t mb = 1024;  // of each process
  double percent_per_s = 1;
  unsigned threads = 1;
  unsigned processes = 1;
};

std::filesystem::path build_directory();

// Command line of a memwork that says "ready" on its output and shares a page named `stats`.
std::vector<std::string> memwork_command(const WorkloadShape& shape,
                                         const std::filesystem::path& stats);

// Returns when `output` has something in it.
Status await_ready(const std::filesystem::path& output);

// The page that memwork shares with us; see there.
class WorkloadFigures {
 public:
  static Result<WorkloadFigures> map(const std::filesystem::path& stats);
  WorkloadFigures(WorkloadFigures&& other) noexcept : page_(std::exchange(other.page_, nullptr)) {}
  WorkloadFigures& operator=(WorkloadFigures&&) = delete;
  ~WorkloadFigures();

  // Work done: turns of the loop in which it waits for its next write.
  std::uint64_t iterations() const { return page_->iterations; }
  void forget_gap();
  double gap_ms() const { return static_cast<double>(page_->gap_max_ns) / 1e6; }

 private:
  struct Page {
    std::atomic<std::uint64_t> writes;
    std::atomic<std::int64_t> gap_max_ns;
    std::atomic<std::uint64_t> resets;
    std::atomic<std::uint64_t> iterations;
  };
  explicit WorkloadFigures(Page* page) : page_(page) {}
  Page* page_;
};

}  // namespace baton::bench
