#include "cluster/process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdlib>
#include <sstream>

#include "sys/file.h"
#include "sys/process_attributes.h"

namespace baton::bench {
namespace {

namespace fs = std::filesystem;

constexpr std::chrono::seconds end_patience{20};

// Two that are free now; nobody else takes ports of the dynamic range by number.
Result<std::array<int, 2>> free_ports() {
  std::array<int, 2> ports{};
  std::array<Fd, 2> held;
  for (std::size_t i = 0; i < ports.size(); ++i) {
    held[i] = Fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    auto* generic = reinterpret_cast<sockaddr*>(&address);
    if (!held[i].valid() || ::bind(held[i].get(), generic, size) != 0 ||
        ::getsockname(held[i].get(), generic, &size) != 0)
      return fail_errno("find a free port");
    ports[i] = ntohs(address.sin_port);
  }
  return ports;
}

}  // namespace

Result<double> cpu_seconds(pid_t pid) {
  BATON_TRY(const std::string text, sys::read_file(fmt::format("/proc/{}/stat", pid)));
  // The name may have blanks in it; what follows it begins with the state, the third field.
  std::istringstream rest(text.substr(text.rfind(')') + 1));
  std::string skipped;
  for (int field = 3; field < 14; ++field) rest >> skipped;
  double user = 0, system = 0;
  rest >> user >> system;
  return (user + system) / static_cast<double>(::sysconf(_SC_CLK_TCK));
}

Result<std::unique_ptr<ControllerProcess>> ControllerProcess::start(const fs::path& baton,
                                                                    const fs::path& directory) {
  std::unique_ptr<ControllerProcess> process(new ControllerProcess(baton, directory));
  BATON_TRY(const auto ports, free_ports());
  process->agents_address_ = fmt::format("127.0.0.1:{}", ports[0]);
  process->users_address_ = fmt::format("127.0.0.1:{}", ports[1]);
  BATON_CHECK(process->launch());
  return process;
}

Status ControllerProcess::launch() {
  BATON_TRY(Fd log,
            sys::open_file(directory_ / "controller.log", O_WRONLY | O_CREAT | O_APPEND, 0600));
  BATON_TRY(Fd null, sys::open_file("/dev/null", O_RDONLY));
  // A heartbeat is due each fifth of the lease. Ends with this program.
  BATON_TRY(spawned_, sys::spawn({.program = "/usr/bin/setpriv",
                                  .argv = {"/usr/bin/setpriv", "--pdeathsig", "KILL", baton_,
                                           "controller", "--data", directory_ / "data", "--lease",
                                           fmt::format("{}s", kLease.count()), "--listen",
                                           agents_address_, "--listen-api", users_address_},
                                  .env = {},
                                  .fds = {{null.get(), 0}, {log.get(), 1}, {log.get(), 2}}}));
  return {};
}

Status ControllerProcess::restart() {
  BATON_CHECK(spawned_.pidfd.signal(SIGKILL));
  (void)spawned_.pidfd.wait_ended({});
  spawned_.pidfd.reap();
  spawned_.pid = 0;
  return launch();
}

ControllerProcess::~ControllerProcess() {
  if (spawned_.pid <= 0) return;
  (void)spawned_.pidfd.signal(SIGTERM);
  if (!spawned_.pidfd.wait_ended(end_patience)) (void)spawned_.pidfd.signal(SIGKILL);
  (void)spawned_.pidfd.wait_ended({});
  spawned_.pidfd.reap();
}

double ControllerProcess::status_number(std::string_view field) const {
  const auto text = sys::status_field(pid(), field);
  return text ? std::strtod(text->c_str(), nullptr) : 0;
}

double ControllerProcess::resident_mib() const { return status_number("VmRSS") / 1024; }
double ControllerProcess::resident_peak_mib() const { return status_number("VmHWM") / 1024; }
double ControllerProcess::anonymous_mib() const { return status_number("RssAnon") / 1024; }
int ControllerProcess::threads() const { return static_cast<int>(status_number("Threads")); }

int ControllerProcess::descriptors() const {
  std::error_code error;
  int count = 0;
  for (fs::directory_iterator entry(fmt::format("/proc/{}/fd", pid()), error), end;
       !error && entry != end; entry.increment(error))
    ++count;
  return count;
}

}  // namespace baton::bench
