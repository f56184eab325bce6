#include "store/data.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <random>

#include "sys/file.h"
#include "sys/proc_maps.h"
#include "sys/process.h"

namespace baton::bench {
namespace {

namespace fs = std::filesystem;

// Arrays as a simulation has them: noise, a smooth field, counters, a sparse matrix, text.
constexpr const char* numpy_job = R"(
import numpy, sys, time
random = numpy.random.default_rng(7)
noise = random.normal(size=6_000_000)
field = numpy.sin(numpy.linspace(0, 500, 8_000_000)).reshape(2000, 4000).astype(numpy.float32)
counters = numpy.arange(6_000_000, dtype=numpy.int64)
sparse = numpy.zeros(12_000_000, dtype=numpy.float32)
sparse[random.integers(0, sparse.size, 200_000)] = 1
words = ["item %d of the list" % i for i in range(400_000)]
print("ready", flush=True)
time.sleep(600)
)";

// A program that is stopped, and ends with this.
class Stopped {
 public:
  explicit Stopped(sys::Spawned process) : process_(std::move(process)) {
    ::kill(process_.pid, SIGSTOP);
    ::waitpid(process_.pid, nullptr, WUNTRACED);
  }
  ~Stopped() {
    (void)process_.pidfd.signal(SIGKILL);
    ::waitpid(process_.pid, nullptr, 0);
  }
  Stopped(const Stopped&) = delete;

  Result<std::string> pages(std::size_t bytes_max) const {
    BATON_TRY(auto mappings, sys::read_mappings(process_.pid));
    BATON_TRY(Fd memory, sys::open_file(fmt::format("/proc/{}/mem", process_.pid), O_RDONLY));
    std::string pages;
    for (const auto& mapping : mappings) {
      if (!mapping.writable || mapping.shared || mapping.kernel_owned()) continue;
      const std::size_t size =
          std::min<std::size_t>(mapping.end - mapping.start, bytes_max - pages.size());
      const std::size_t at = pages.size();
      pages.resize(at + size);
      if (!sys::pread_all(memory.get(), pages.data() + at, size, mapping.start)) pages.resize(at);
    }
    return pages;
  }

 private:
  sys::Spawned process_;
};

Result<sys::Spawned> spawn(const std::string& program, std::vector<std::string> arguments,
                           std::vector<std::pair<int, int>> fds = {}) {
  arguments.insert(arguments.begin(), program);
  return sys::spawn({.program = program,
                     .argv = std::move(arguments),
                     .env = {"PATH=/usr/bin:/bin"},
                     .fds = std::move(fds)});
}

Result<std::string> numpy_pages(std::size_t bytes_max) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return fail_errno("pipe");
  Fd output(ends[0]), input(ends[1]);
  BATON_TRY(auto process, spawn("/usr/bin/python3", {"-c", numpy_job}, {{input.get(), 1}}));
  input.reset();
  char byte;
  const bool ready = ::read(output.get(), &byte, 1) == 1;
  Stopped stopped(std::move(process));
  if (!ready) return fail(ErrorCode::Unavailable, "the NumPy job did not start: python3-numpy?");
  return stopped.pages(bytes_max);
}

Status run(const std::string& program, std::vector<std::string> arguments) {
  BATON_TRY(Fd null, sys::open_file("/dev/null", O_WRONLY));
  BATON_TRY(auto process, spawn(program, std::move(arguments), {{null.get(), 1}}));
  int status = 0;
  ::waitpid(process.pid, &status, 0);
  if (status != 0) return fail(ErrorCode::Unavailable, program + " failed");
  return {};
}

Result<std::string> redis_pages(const fs::path& directory, std::size_t bytes_max) {
  const std::string socket = directory / "redis.sock";
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return fail_errno("pipe");
  Fd output(ends[0]), input(ends[1]);
  BATON_TRY(auto process,
            spawn("/usr/bin/redis-server",
                  {"--port", "0", "--unixsocket", socket, "--save", "", "--dir", directory},
                  {{input.get(), 1}}));
  input.reset();
  // It says when it listens, and little after that.
  std::string said;
  for (char byte; !said.contains("eady to accept") && ::read(output.get(), &byte, 1) == 1;)
    said += byte;
  auto filled =
      run("/usr/bin/redis-benchmark", {"-s", socket, "-q", "-n", "400000", "-r", "1000000", "-d",
                                       "200", "-P", "50", "-t", "set,lpush,hset"});
  Stopped stopped(std::move(process));
  BATON_CHECK(filled);
  return stopped.pages(bytes_max);
}

}  // namespace

Result<std::vector<DataSet>> make_data(const fs::path& directory, std::size_t bytes_max) {
  std::vector<DataSet> sets;
  BATON_TRY(auto numpy, numpy_pages(bytes_max));
  sets.push_back({"NumPy", std::move(numpy)});
  BATON_TRY(auto redis, redis_pages(directory, bytes_max));
  sets.push_back({"redis", std::move(redis)});
  std::string noise(std::min<std::size_t>(bytes_max, 128u << 20), '\0');
  std::mt19937_64 random(7);
  for (std::size_t at = 0; at < noise.size(); at += 8) {
    const auto word = random();
    std::memcpy(noise.data() + at, &word, 8);
  }
  sets.push_back({"random", std::move(noise)});
  return sets;
}

}  // namespace baton::bench
