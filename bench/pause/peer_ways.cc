// What others do with the same program.
#include <fcntl.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

#include "base/clock.h"
#include "base/log.h"
#include "pause/ways.h"
#include "sys/file.h"
#include "sys/process.h"

namespace baton::bench {
namespace {

namespace fs = std::filesystem;

constexpr const char* path_variable = "PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
constexpr const char* probe_cache = "/run/criu.kdat";  // CRIU's, of this kernel

std::string find_program(const std::string& name) {
  for (const char* folder : {"/usr/local/bin", "/usr/bin"})
    if (fs::path path = fs::path(folder) / name; ::access(path.c_str(), X_OK) == 0) return path;
  return {};
}

Result<sys::Spawned> launch(const std::vector<std::string>& argv, const fs::path& output,
                            std::uint64_t clone_flags = 0) {
  BATON_TRY(Fd out, sys::open_file(output, O_WRONLY | O_CREAT | O_APPEND, 0600));
  BATON_TRY(Fd null, sys::open_file("/dev/null", O_RDONLY));
  return sys::spawn({.program = argv.front(),
                     .argv = argv,
                     .env = {path_variable},
                     .fds = {{null.get(), 0}, {out.get(), 1}, {out.get(), 2}},
                     .clone_flags = clone_flags});
}

Status run(const std::vector<std::string>& argv, const fs::path& output) {
  BATON_TRY(auto spawned, launch(argv, output));
  int status = 0;
  if (::waitpid(spawned.pid, &status, 0) < 0) return fail_errno("wait");
  if (status == 0) return {};
  auto text = sys::read_file(output);
  return fail(ErrorCode::Internal,
              fmt::format("{} ended with status {}: {}", argv.front(), status, text ? *text : ""));
}

void end_tree(pid_t root) {
  auto pids = sys::process_tree(root);
  for (pid_t pid : pids) ::kill(pid, SIGKILL);
  ::waitpid(root, nullptr, 0);
  for (pid_t pid : pids) ::waitpid(pid, nullptr, 0);
}

std::uint64_t bytes_in(const fs::path& directory, std::string_view prefix) {
  std::uint64_t bytes = 0;
  for (const auto& entry : fs::directory_iterator(directory))
    if (entry.path().filename().string().starts_with(prefix)) bytes += entry.file_size();
  return bytes;
}

class PeerWay : public Way {
 public:
  PeerWay(ScratchDirectory scratch, ScratchDirectory stats)
      : scratch_(std::move(scratch)), stats_(std::move(stats)) {}
  ~PeerWay() override {
    if (pid_ > 0) end_tree(pid_);
  }
  WorkloadFigures& figures() override { return *figures_; }

 protected:
  // In a session and an IPC namespace of its own, as CRIU wants it. Ends with this program.
  Status begin(std::vector<std::string> argv) {
    for (const char* word : {"/usr/bin/setsid", "KILL", "--pdeathsig", "/usr/bin/setpriv"})
      argv.insert(argv.begin(), word);
    BATON_TRY(auto spawned, launch(argv, scratch_.path() / "output", CLONE_NEWIPC));
    pid_ = spawned.pid;
    BATON_CHECK(await_ready(scratch_.path() / "output"));
    BATON_TRY(auto figures, WorkloadFigures::map(stats_file()));
    figures_.emplace(std::move(figures));
    return {};
  }
  fs::path stats_file() const { return stats_.path() / "stats"; }

  ScratchDirectory scratch_;  // on tmpfs
  ScratchDirectory stats_;
  pid_t pid_ = 0;
  std::optional<WorkloadFigures> figures_;
};

class StockCriuWay : public PeerWay {
 public:
  StockCriuWay(ScratchDirectory scratch, ScratchDirectory stats, fs::path prefix)
      : PeerWay(std::move(scratch), std::move(stats)), prefix_(std::move(prefix)) {}
  ~StockCriuWay() override {
    if (!had_probe_cache_) (void)::unlink(probe_cache);
  }
  Status start(const WorkloadShape& shape) { return begin(memwork_command(shape, stats_file())); }

  Result<Taken> checkpoint() override {
    fs::path images = scratch_.path() / "images";
    BATON_CHECK(sys::make_directories(images));
    std::int64_t began_us = boot_time_ns() / 1000;
    BATON_CHECK(run({prefix_ / "lib" / "ld.so", "--library-path", prefix_ / "lib",
                     prefix_ / "bin" / "criu", "dump", "--tree", std::to_string(pid_),
                     "--images-dir", images, "--leave-running", "--log-file", "dump.log"},
                    scratch_.path() / "criu-output"));
    Taken taken{.criu_frozen_ms = criu_frozen_ms(images),
                .total_ms = static_cast<double>(boot_time_ns() / 1000 - began_us) / 1e3,
                .captured_bytes = bytes_in(images, "pages-"),
                .memory = "full: stock CRIU"};
    taken.frozen_ms = taken.criu_frozen_ms;
    BATON_CHECK(sys::remove_tree(images));
    return taken;
  }

 private:
  const fs::path prefix_;
  const bool had_probe_cache_ = fs::exists(probe_cache);
};

// Written from DMTCP's manual; Debian 12 has no package of it to try.
class DmtcpWay : public PeerWay {
 public:
  using PeerWay::PeerWay;
  ~DmtcpWay() override {
    if (port_ != "") (void)run(command("--quit"), scratch_.path() / "dmtcp-output");
  }
  Status start(const WorkloadShape& shape) {
    std::vector<std::string> argv = {find_program("dmtcp_launch"),
                                     "--new-coordinator",
                                     "--coord-port",
                                     "0",
                                     "--port-file",
                                     scratch_.path() / "port",
                                     "--no-gzip",
                                     "--ckptdir",
                                     scratch_.path()};
    for (auto& word : memwork_command(shape, stats_file())) argv.push_back(std::move(word));
    BATON_CHECK(begin(argv));
    BATON_TRY(port_, sys::read_file(scratch_.path() / "port"));
    while (!port_.empty() && port_.back() == '\n') port_.pop_back();
    return {};
  }
  Result<Taken> checkpoint() override {
    std::int64_t began_us = boot_time_ns() / 1000;
    BATON_CHECK(run(command("--bcheckpoint"), scratch_.path() / "dmtcp-output"));
    Taken taken{.total_ms = static_cast<double>(boot_time_ns() / 1000 - began_us) / 1e3,
                .captured_bytes = bytes_in(scratch_.path(), "ckpt_"),
                .memory = "full: DMTCP"};
    for (const auto& entry : fs::directory_iterator(scratch_.path()))
      if (entry.path().filename().string().starts_with("ckpt_")) fs::remove_all(entry.path());
    return taken;
  }

 private:
  std::vector<std::string> command(const std::string& what) const {
    return {find_program("dmtcp_command"), "--coord-port", port_, what};
  }
  std::string port_;
};

template <typename Kind, typename... More>
Result<std::unique_ptr<Way>> start_peer(const WorkloadShape& shape, const Places& places,
                                        More&&... more) {
  BATON_TRY(auto scratch, ScratchDirectory::make(places.tmpfs));
  // Not on tmpfs: a stock dump takes mapped files of a tmpfs along with it.
  BATON_TRY(auto stats, ScratchDirectory::make(places.directory));
  auto way = std::make_unique<Kind>(std::move(scratch), std::move(stats), more...);
  BATON_CHECK(way->start(shape));
  return way;
}

}  // namespace

Result<std::unique_ptr<Way>> start_stock_criu(const WorkloadShape& shape, const Places& places) {
  return start_peer<StockCriuWay>(shape, places, places.criu_prefix);
}

Result<std::unique_ptr<Way>> start_dmtcp(const WorkloadShape& shape, const Places& places) {
  return start_peer<DmtcpWay>(shape, places);
}

bool have_dmtcp() {
  return !find_program("dmtcp_launch").empty() && !find_program("dmtcp_command").empty();
}

// "stats-dump": two magic words, a length, and a protobuf whose field 1 is the dump's figures; of
// these, field 2 is the frozen time in us.
double criu_frozen_ms(const fs::path& images) {
  auto content = sys::read_file(images / "stats-dump");
  if (!content || content->size() < 12) return 0;
  std::size_t at = 12;
  auto varint = [&] {
    std::uint64_t value = 0;
    for (int shift = 0; at < content->size() && shift < 64; shift += 7) {
      auto byte = static_cast<unsigned char>((*content)[at++]);
      value |= std::uint64_t{byte & 0x7fu} << shift;
      if (!(byte & 0x80)) break;
    }
    return value;
  };
  if (varint() != (1 << 3 | 2)) return 0;
  const std::uint64_t size = varint();
  for (std::size_t end = std::min<std::size_t>(content->size(), at + size); at < end;) {
    std::uint64_t key = varint(), value = varint();
    if (key == (2 << 3)) return static_cast<double>(value) / 1e3;
  }
  return 0;
}

}  // namespace baton::bench
