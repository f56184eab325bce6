// How an incarnation ends: its lease, its agent, a kill, and what must survive all attempts.
#include <gmock/gmock.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <fstream>
#include <sstream>

#include "agent/sandbox_client.h"
#include "agent_sandbox_fixture.h"

namespace baton::agent {
namespace {

namespace fs = std::filesystem;
using testing::EndsWith;
using Kind = SandboxExit::Kind;

constexpr std::int64_t kMs = 1'000'000;

// One that ends by no means but SIGKILL, in several ways at once.
CommandSpec stubborn() {
  CommandSpec command;
  command.argv = {"/bin/sh", "-c",
                  "trap '' TERM INT HUP; sleep 1000 & kill -STOP $!;"
                  "setsid sh -c 'trap \"\" TERM; while :; do sleep 0.05; done' &"
                  "echo ready; while :; do sleep 0.01; done"};
  return command;
}

std::vector<sys::PidFd> handles(const Sandbox& sandbox) {
  std::vector<sys::PidFd> result;
  const auto processes = sandbox.processes();
  EXPECT_TRUE(processes);
  if (!processes) return result;
  for (const auto& [inner, outer] : *processes)
    if (auto process = sys::PidFd::open(outer)) result.push_back(std::move(*process));
  return result;
}

void expect_all_ended(const std::vector<sys::PidFd>& processes) {
  for (const auto& process : processes)
    EXPECT_TRUE(process.wait_ended(std::chrono::milliseconds(0))) << "a process still runs";
}

TEST_F(SandboxTest, EndsWithItsLeaseAndNotBefore) {
  SandboxSpec leased = spec();
  leased.lease_deadline_boot_ns = boot_time_ns() + 900 * kMs;
  const Sandbox* sandbox = run(stubborn(), leased);
  ASSERT_NE(sandbox, nullptr);
  await_output(*sandbox, "ready");
  const auto processes = handles(*sandbox);
  EXPECT_GE(processes.size(), 4u);
  const SandboxExit exit = await(*sandbox);
  const std::int64_t late_ns = boot_time_ns() - leased.lease_deadline_boot_ns;
  EXPECT_GE(late_ns, 0) << "ended before its time";
  EXPECT_LT(late_ns, 500 * kMs);
  EXPECT_EQ(exit.kind, Kind::Fenced);
  EXPECT_EQ(exit.output_bytes, 6u);
  expect_all_ended(processes);
}

// A controller starts the next incarnation a little after the deadline; how little depends on this.
TEST_F(SandboxTest, NothingRunsAfterTheDeadlineHoweverThrottledTheJobIs) {
  if (!fs::exists("/usr/bin/perl")) GTEST_SKIP() << "needs perl to write down the time";
  SandboxSpec limited = spec();
  if (const Status fit = put_in_group(&limited); !fit) GTEST_SKIP() << fit.error().message();
  limited.limits.cpus = 0.1;
  limited.volumes = {{folder_, "/shared", false}};
  CommandSpec command;
  command.argv = {
      "perl", "-MTime::HiRes=clock_gettime", "-e",
      "for (1..3) { fork or last }; open F, '+>', \"/shared/time$$\"; $| = 1;"
      "while (1) { sysseek F, 0, 0; syswrite F, sprintf '%d', 1e9 * clock_gettime(7) }"};
  Sandbox* sandbox = run(command, limited);
  ASSERT_NE(sandbox, nullptr);
  const std::int64_t deadline = boot_time_ns() + 1000 * kMs;
  ASSERT_TRUE(sandbox->set_lease_deadline(deadline));
  EXPECT_EQ(await(*sandbox).kind, Kind::Fenced);
  std::int64_t last = 0;
  for (const auto& entry : fs::directory_iterator(folder_))
    if (entry.path().filename().string().starts_with("time"))
      last = std::max<std::int64_t>(last, std::stoll("0" + *sys::read_file(entry.path())));
  EXPECT_GT(last, deadline - 600 * kMs) << "they did run";
  EXPECT_LT(last, deadline + 50 * kMs);
}

TEST_F(SandboxTest, ARenewedLeaseHoldsLonger) {
  SandboxSpec leased = spec();
  leased.lease_deadline_boot_ns = boot_time_ns() + 300 * kMs;
  Sandbox* sandbox = run(stubborn(), leased);
  ASSERT_NE(sandbox, nullptr);
  const std::int64_t renewed = leased.lease_deadline_boot_ns + 500 * kMs;
  ASSERT_TRUE(sandbox->set_lease_deadline(renewed));
  EXPECT_EQ(await(*sandbox).kind, Kind::Fenced);
  EXPECT_GE(boot_time_ns(), renewed);
}

// To fill the private files may take longer than a lease, which is renewed meanwhile.
TEST_F(SandboxTest, TheLeaseCountsFromWhenItStarts) {
  SandboxSpec leased = spec();
  leased.lease_deadline_boot_ns = boot_time_ns() + 100 * kMs;
  leased.populate_uppers = [&](const auto&) -> Status {
    ::usleep(200'000);
    return {};
  };
  std::int64_t deadline = 0;
  leased.newest_lease_deadline = [&] { return deadline = boot_time_ns() + 500 * kMs; };
  const Sandbox* sandbox = run(stubborn(), leased);
  ASSERT_NE(sandbox, nullptr);
  await_output(*sandbox, "ready");
  EXPECT_EQ(await(*sandbox).kind, Kind::Fenced);
  EXPECT_GE(boot_time_ns(), deadline);
}

TEST_F(SandboxTest, ALeaseThatIsOverEndsItAtOnce) {
  Sandbox* sandbox = run(stubborn());
  ASSERT_NE(sandbox, nullptr);
  EXPECT_EQ(sandbox->set_lease_deadline(-1).error().code(), ErrorCode::InvalidArgument);
  EXPECT_FALSE(sandbox->exit());
  ASSERT_TRUE(sandbox->set_lease_deadline(1));
  EXPECT_EQ(await(*sandbox).kind, Kind::Fenced);
}

TEST_F(SandboxTest, OutlivesItsAgentAndIsAdopted) {
  SandboxSpec given = spec();
  given.volumes = {{"/usr", "/mnt/usr", true}};
  given.criu_prefix = "/usr";
  pid_t init = 0;
  {
    auto sandbox = Sandbox::create(given);
    ASSERT_TRUE(sandbox) << sandbox.error().message();
    ASSERT_TRUE((*sandbox)->start(stubborn()));
    init = (*sandbox)->init_pid();
  }
  auto adopted = Sandbox::adopt(given.directory);
  ASSERT_TRUE(adopted) << adopted.error().message();
  Sandbox& sandbox = **adopted;
  EXPECT_EQ(sandbox.init_pid(), init);
  EXPECT_EQ(sandbox.root_pid_inner(), 2);
  EXPECT_EQ(sandbox.command_pid_inner(), 3);
  EXPECT_EQ(sandbox.spec().job, given.job);
  EXPECT_EQ(sandbox.spec().generation, given.generation);
  EXPECT_EQ(sandbox.spec().hostname, given.hostname);
  ASSERT_EQ(sandbox.spec().volumes.size(), 1u);
  EXPECT_TRUE(sandbox.spec().volumes[0].read_only);
  EXPECT_FALSE(sandbox.exit());
  EXPECT_EQ(Sandbox::remove(given.directory).error().code(), ErrorCode::FailedPrecondition);
  EXPECT_TRUE(sandbox.kill());
  EXPECT_EQ(Sandbox::adopt(given.directory).error().code(), ErrorCode::NotFound);
  EXPECT_EQ(Sandbox::read_exit(given.directory)->kind, Kind::Killed);
}

TEST_F(SandboxTest, AKilledAgentLeavesItRunningUntilTheLeaseEnds) {
  const SandboxSpec given = spec();
  const std::int64_t deadline = boot_time_ns() + 1200 * kMs;
  const pid_t agent = ::fork();
  if (agent == 0) {
    auto sandbox = Sandbox::create(given);
    if (!sandbox || !(*sandbox)->start(stubborn()) || !(*sandbox)->set_lease_deadline(deadline))
      ::_exit(1);
    ::kill(::getpid(), SIGKILL);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(agent, &status, 0), agent);
  ASSERT_TRUE(WIFSIGNALED(status)) << "the agent could not start it";
  auto adopted = Sandbox::adopt(given.directory);
  ASSERT_TRUE(adopted) << adopted.error().message();
  const auto processes = handles(**adopted);
  EXPECT_EQ(await(**adopted).kind, Kind::Fenced);
  EXPECT_GE(boot_time_ns(), deadline);
  expect_all_ended(processes);
}

TEST_F(SandboxTest, KillEndsEverything) {
  Sandbox* sandbox = run(stubborn());
  ASSERT_NE(sandbox, nullptr);
  await_output(*sandbox, "ready");
  const auto processes = handles(*sandbox);
  ASSERT_TRUE(sandbox->kill());
  expect_all_ended(processes);
  const auto exit = sandbox->exit();
  ASSERT_TRUE(exit);
  EXPECT_EQ(exit->kind, Kind::Killed);
  EXPECT_EQ(exit->code, 137);
  EXPECT_EQ(exit->output_bytes, 6u);
  EXPECT_TRUE(sandbox->kill()) << "a second time does no harm";
}

TEST_F(SandboxTest, KillWorksOnAStoppedPid1) {
  Sandbox* sandbox = run(stubborn());
  ASSERT_NE(sandbox, nullptr);
  await_output(*sandbox, "ready");
  const auto processes = handles(*sandbox);
  ASSERT_EQ(::kill(sandbox->init_pid(), SIGSTOP), 0);
  ASSERT_TRUE(sandbox->kill());
  expect_all_ended(processes);
  EXPECT_EQ(sandbox->exit()->kind, Kind::Killed);
}

TEST_F(SandboxTest, Pid1KilledFromOutsideIsLost) {
  Sandbox* sandbox = run(stubborn());
  ASSERT_NE(sandbox, nullptr);
  await_output(*sandbox, "ready");
  const auto processes = handles(*sandbox);
  ASSERT_EQ(::kill(sandbox->init_pid(), SIGKILL), 0);
  const SandboxExit exit = await(*sandbox);
  EXPECT_EQ(exit.kind, Kind::Lost);
  EXPECT_EQ(exit.output_bytes, 6u);
  expect_all_ended(processes);
}

TEST_F(SandboxTest, DiesWithItsAgentOnlyWhileArmed) {
  const SandboxSpec given = spec();
  sys::PidFd init;
  {
    auto sandbox = Sandbox::create(given);
    ASSERT_TRUE(sandbox);
    ASSERT_TRUE((*sandbox)->start(stubborn()));
    ASSERT_TRUE((*sandbox)->set_die_with_agent(true));
    ASSERT_TRUE((*sandbox)->set_die_with_agent(false));
  }
  {
    auto sandbox = Sandbox::adopt(given.directory);
    ASSERT_TRUE(sandbox) << "disarmed, so it must still run";
    init = *sys::PidFd::open((*sandbox)->init_pid());
    ASSERT_TRUE((*sandbox)->set_die_with_agent(true));
  }
  EXPECT_TRUE(init.wait_ended(std::chrono::milliseconds(10'000)));
  init.reap();
  EXPECT_EQ(Sandbox::read_exit(given.directory)->kind, Kind::Fenced);
}

TEST_F(SandboxTest, TheJobCannotEndOrStopPid1) {
  Sandbox* sandbox =
      run(shell("kill -KILL 1; kill -STOP 1; kill -TERM 1; kill -SEGV 1; echo ok;"
                "kill -KILL -1; kill -KILL $$"));
  ASSERT_NE(sandbox, nullptr);
  const SandboxExit exit = await(*sandbox);
  EXPECT_EQ(exit.kind, Kind::Exited) << "pid 1 lived to tell";
  EXPECT_EQ(exit.code, 137);
  EXPECT_EQ(output(*sandbox), "ok\n");
}

int connect_to(const fs::path& directory) {
  const int socket = ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  (directory / "control.sock").string().copy(address.sun_path, sizeof address.sun_path - 1);
  EXPECT_EQ(::connect(socket, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  return socket;
}

TEST_F(SandboxTest, GarbageAtTheSocketDoesNoHarm) {
  Sandbox* sandbox = run(stubborn());
  ASSERT_NE(sandbox, nullptr);
  const fs::path directory = sandbox->spec().directory;
  std::vector<std::string> messages{"x", std::string(100'000, 'z'),
                                    std::string(sizeof(init::Request), '\xff')};
  init::Request unknown;
  unknown.op = static_cast<init::Op>(999);
  messages.emplace_back(reinterpret_cast<char*>(&unknown), sizeof unknown);
  init::Request no_command;
  no_command.op = init::Op::Start;
  messages.emplace_back(reinterpret_cast<char*>(&no_command), sizeof no_command);
  for (int round = 0; round < 3; ++round) {
    std::vector<Fd> sockets;
    for (int i = 0; i < 40; ++i) sockets.emplace_back(connect_to(directory));
    for (std::size_t i = 0; i < sockets.size(); ++i) {
      const std::string& message = messages[i % messages.size()];
      (void)::send(sockets[i].get(), message.data(), message.size(), MSG_NOSIGNAL);
    }
    EXPECT_TRUE(sandbox->set_lease_deadline(0));
  }
  EXPECT_FALSE(sandbox->exit());
}

TEST_F(SandboxTest, ManyAtOnceEachWithItsOwnEnd) {
  std::vector<Sandbox*> running;
  for (int i = 0; i < 8; ++i)
    running.push_back(run(shell("sleep 0.2; exit " + std::to_string(20 + i))));
  for (int i = 7; i >= 0; --i) {
    ASSERT_NE(running[static_cast<std::size_t>(i)], nullptr);
    EXPECT_EQ(await(*running[static_cast<std::size_t>(i)]).code, 20 + i);
  }
}

TEST_F(SandboxTest, LimitsAndTheirGroup) {
  SandboxSpec limited = spec();
  if (const Status fit = put_in_group(&limited); !fit) GTEST_SKIP() << fit.error().message();
  const fs::path parent = limited.cgroup_parent;
  limited.limits = {64 << 20, 0.5};
  Sandbox* sandbox = run(shell("sleep 100"), limited);
  // A second one of the same generation, as a preflight makes it.
  SandboxSpec twin = limited;
  twin.directory = folder_ / "job-twin";
  ASSERT_NE(create(twin), nullptr);
  ASSERT_NE(sandbox, nullptr);
  const auto group = sys::Cgroup::open(parent / "job-7.1");
  ASSERT_TRUE(group);
  EXPECT_DOUBLE_EQ(group->cpu_quota().value_or(0), 0.5);
  EXPECT_EQ(group->memory_limit_bytes().value_or(0), 64u << 20);
  EXPECT_GE(group->processes().size(), 3u) << "pid 1, root and the command";
  const auto processes = sandbox->processes();
  ASSERT_TRUE(processes);
  for (const auto& [inner, pid] : *processes) {
    std::istringstream groups(sys::read_file(fmt::format("/proc/{}/cgroup", pid)).value_or(""));
    for (std::string line; std::getline(groups, line);)
      for (const char* controller : {"cpu", "cpuacct", "memory", "freezer", "pids"}) {
        if (line.find(fmt::format(":{}:", controller)) == std::string::npos) continue;
        EXPECT_THAT(line, EndsWith("/job-7.1")) << "process " << inner;
      }
  }
  for (const auto& one : sandboxes_) {
    EXPECT_TRUE(one->kill());
    EXPECT_TRUE(Sandbox::remove(one->spec().directory));
  }
  EXPECT_FALSE(sys::Cgroup::open(parent / "job-7.1"));
  EXPECT_FALSE(sys::Cgroup::open(parent / "job-7.1.2"));
}

// A stand-in for CRIU's loader that tells its pid over the socket and lives until that closes.
fs::path fake_criu(const fs::path& folder) {
  fs::create_directories(folder / "lib");
  fs::create_directories(folder / "bin");
  EXPECT_TRUE(sys::write_file_durable(folder / "bin/criu", "", 0755));
  EXPECT_TRUE(sys::write_file_durable(
      folder / "lib/ld.so", "#!/bin/sh\necho \"$$ $*\" >&3\necho noise >&2\nread line <&3\n",
      0755));
  return folder;
}

TEST_F(SandboxTest, CriuRunsInsideWithPidsOfItsOwn) {
  SandboxSpec given = spec();
  given.criu_prefix = fake_criu(folder_ / "prefix");
  Sandbox* sandbox = create(given);
  ASSERT_NE(sandbox, nullptr);
  const pid_t pid_max = std::stoi(*sys::read_file("/proc/sys/kernel/pid_max"));
  const pid_t taken = pid_max - 100;
  pid_t highest = pid_max;
  for (const std::vector<pid_t>& keep_free : {std::vector<pid_t>{}, std::vector<pid_t>{taken}}) {
    auto worker = sandbox->launch_criu(keep_free);
    ASSERT_TRUE(worker) << worker.error().message();
    char text[500] = {};
    ASSERT_GT(::recv(worker->socket.get(), text, sizeof text - 1, 0), 0);
    const pid_t pid = std::atoi(text);
    EXPECT_LT(pid, highest);
    EXPECT_GT(pid, pid_max - 3000);
    highest = taken - 300;
    EXPECT_NE(std::string(text).find("--library-path /.baton/criu/lib"), std::string::npos) << text;
    EXPECT_NE(std::string(text).find("/.baton/criu/bin/criu swrk 3\n"), std::string::npos) << text;
    worker->socket.reset();
    sys::PidFd process(std::move(worker->pidfd));
    EXPECT_TRUE(process.wait_ended(std::chrono::milliseconds(5000)));
  }
  // Answered after pid 1 has reaped the worker, or it would still be counted as one.
  ASSERT_TRUE(sandbox->start(shell("exit 0")));
  EXPECT_LT(sandbox->command_pid_inner(), 300) << "the job's pids go on where they were";
  EXPECT_EQ(sys::read_file(given.directory / "criu-stderr.log"), "noise\nnoise\n");
}

TEST_F(SandboxTest, ARestoredRootIsWaitedFor) {
  SandboxSpec given = spec();
  given.criu_prefix = fake_criu(folder_ / "prefix");
  Sandbox* sandbox = create(given);
  ASSERT_NE(sandbox, nullptr);
  EXPECT_EQ(sandbox->adopt_restored(200, 201).error().code(), ErrorCode::NotFound);
  auto worker = sandbox->launch_criu();
  ASSERT_TRUE(worker);
  char text[500] = {};
  ASSERT_GT(::recv(worker->socket.get(), text, sizeof text - 1, 0), 0);
  // The worker plays the root; its exit is the incarnation's.
  ASSERT_TRUE(sandbox->adopt_restored(std::atoi(text), std::atoi(text)));
  EXPECT_FALSE(sandbox->exit());
  worker->socket.reset();
  const SandboxExit exit = await(*sandbox);
  EXPECT_EQ(exit.kind, Kind::Exited);
  EXPECT_EQ(exit.code, 1) << "read(1) at the end of its input";
}

// A worker that is killed may have left the tree in the middle of a call of its own, of which the
// command may die; only what ends of itself has a code to be reported.
TEST_F(SandboxTest, AnEndAfterCriuWasKilledIsNoExitUntilTheTreeIsDeclaredUnharmed) {
  CommandSpec command;
  command.argv = {"/bin/sh", "-c", "trap 'exit 7' USR1; echo ready; while :; do sleep 0.01; done"};
  enum class Way { Killed, KilledAndLookedAfter, KilledAndLaunchedAgain, EndedByItself, WasDone };
  for (Way way : {Way::Killed, Way::KilledAndLookedAfter, Way::KilledAndLaunchedAgain,
                  Way::EndedByItself, Way::WasDone}) {
    SandboxSpec given = spec();
    given.criu_prefix = fake_criu(folder_ / fmt::format("prefix{}", static_cast<int>(way)));
    Sandbox* sandbox = run(command, given);
    ASSERT_NE(sandbox, nullptr);
    await_output(*sandbox, "ready");
    auto worker = sandbox->launch_criu();
    ASSERT_TRUE(worker);
    char text[500] = {};
    ASSERT_GT(::recv(worker->socket.get(), text, sizeof text - 1, 0), 0);
    sys::PidFd process(std::move(worker->pidfd));
    if (way == Way::EndedByItself)
      worker->socket.reset();
    else
      ASSERT_TRUE(process.signal(way == Way::WasDone ? SIGTERM : SIGKILL));
    ASSERT_TRUE(process.wait_ended(std::chrono::milliseconds(5000)));
    if (way == Way::KilledAndLookedAfter) {
      ASSERT_TRUE(sandbox->declare_unharmed());
    }
    if (way == Way::KilledAndLaunchedAgain) {
      ASSERT_TRUE(sandbox->launch_criu());
    }
    ASSERT_TRUE(sandbox->signal(SIGUSR1));
    const SandboxExit exit = await(*sandbox);
    EXPECT_EQ(exit.kind, way == Way::Killed ? Kind::Harmed : Kind::Exited) << static_cast<int>(way);
    EXPECT_EQ(exit.code, 7);
  }
}

TEST_F(SandboxTest, ARestoredRootThatEndedAlreadyIsKnown) {
  SandboxSpec given = spec();
  given.criu_prefix = fake_criu(folder_ / "prefix");
  Sandbox* sandbox = create(given);
  ASSERT_NE(sandbox, nullptr);
  auto worker = sandbox->launch_criu();
  ASSERT_TRUE(worker);
  char text[500] = {};
  ASSERT_GT(::recv(worker->socket.get(), text, sizeof text - 1, 0), 0);
  worker->socket.reset();
  sys::PidFd process(std::move(worker->pidfd));
  ASSERT_TRUE(process.wait_ended(std::chrono::milliseconds(5000)));
  ASSERT_TRUE(sandbox->adopt_restored(std::atoi(text), std::atoi(text)));
  EXPECT_EQ(await(*sandbox).code, 1);
}

}  // namespace
}  // namespace baton::agent
