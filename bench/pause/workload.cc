#include "pause/workload.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <thread>

#include "base/clock.h"
#include "sys/file.h"

namespace baton::bench {

namespace fs = std::filesystem;

fs::path build_directory() { return fs::read_symlink("/proc/self/exe").parent_path(); }

std::vector<std::string> memwork_command(const WorkloadShape& shape, const fs::path& stats) {
  double pages_per_ms = static_cast<double>(shape.mb) * 256 * shape.percent_per_s / 1e5;
  bool spin = shape.threads == 1 && shape.processes == 1;
  return {build_directory() / "programs" / "memwork",
          "--mb",
          std::to_string(shape.mb),
          "--threads",
          std::to_string(shape.threads),
          "--processes",
          std::to_string(shape.processes),
          "--pages-per-ms",
          std::to_string(pages_per_ms),
          "--spin",
          spin ? "1" : "0",
          "--stats",
          stats,
          "--ready",
          "-",
          "--result",
          "-"};
}

Status await_ready(const fs::path& output) {
  std::error_code error;
  for (auto limit = boot_time_ms() + 120'000;
       !fs::exists(output, error) || fs::file_size(output, error) == 0;) {
    if (boot_time_ms() > limit) return fail(ErrorCode::TimedOut, "the workload does not start");
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  return {};
}

Result<WorkloadFigures> WorkloadFigures::map(const fs::path& stats) {
  BATON_TRY(Fd file, sys::open_file(stats, O_RDWR));
  void* page = ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
  if (page == MAP_FAILED) return fail_errno("map the workload's figures");
  return WorkloadFigures(static_cast<Page*>(page));
}

WorkloadFigures::~WorkloadFigures() {
  if (page_) ::munmap(page_, 4096);
}

void WorkloadFigures::forget_gap() {
  page_->resets++;
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  page_->gap_max_ns = 0;
}

}  // namespace baton::bench
