// What a command sees of its sandbox at its start, and how its end is told.
#include <linux/capability.h>
#include <sys/stat.h>

#include "agent_sandbox_fixture.h"

namespace baton::agent {
namespace {

namespace fs = std::filesystem;
using Kind = SandboxExit::Kind;

TEST_F(SandboxTest, RunsACommandAndTellsItsCode) {
  const Sandbox* sandbox = run(shell("echo out; echo err >&2; exit 7"));
  ASSERT_NE(sandbox, nullptr);
  const SandboxExit exit = await(*sandbox);
  EXPECT_EQ(exit.kind, Kind::Exited);
  EXPECT_EQ(exit.code, 7);
  EXPECT_EQ(output(*sandbox), "out\nerr\n");
  EXPECT_EQ(exit.output_bytes, 8u);
}

TEST_F(SandboxTest, DeathBySignalIs128AndItsNumber) {
  const Sandbox* sandbox = run(shell("kill -SEGV $$"));
  ASSERT_NE(sandbox, nullptr);
  EXPECT_EQ(await(*sandbox).code, 128 + SIGSEGV);
}

TEST_F(SandboxTest, ArgumentsArriveAsTheyAre) {
  CommandSpec command;
  command.argv = {"printf", "<%s>", "it's", "\"two\" \\ words", "line\nbreak", "", "$HOME *", "é"};
  EXPECT_EQ(printed_by(command), "<it's><\"two\" \\ words><line\nbreak><><$HOME *><é>");
}

TEST_F(SandboxTest, AVeryLongArgumentListArrives) {
  CommandSpec command = shell("echo $#");
  command.argv.push_back("sh");
  for (int i = 0; i < 10'000; ++i) command.argv.push_back(std::string(100, 'x'));
  EXPECT_EQ(printed_by(command), "10000\n");
}

TEST_F(SandboxTest, EnvironmentIsExactlyThatOfTheCommand) {
  ::setenv("BATON_TEST_LEAK", "must not be seen", 1);
  CommandSpec command;
  command.argv = {"cat", "/proc/self/environ"};
  command.env = {{"A", "quote ' and\nnewline"}, {"EMPTY", ""}, {"PATH", "/usr/bin:/bin"}};
  std::multiset<std::string> seen;
  std::string text = printed_by(command);
  ::unsetenv("BATON_TEST_LEAK");
  for (std::size_t at; (at = text.find('\0')) != std::string::npos; text.erase(0, at + 1))
    seen.insert(text.substr(0, at));
  EXPECT_EQ(seen,
            (std::multiset<std::string>{"A=quote ' and\nnewline", "EMPTY=", "PATH=/usr/bin:/bin",
                                        "HOME=/root", "USER=root", "LOGNAME=root"}));
}

TEST_F(SandboxTest, WorkingDirectory) {
  CommandSpec command = shell("pwd");
  command.workdir = "/usr/bin";
  EXPECT_EQ(printed_by(command), "/usr/bin\n");
}

TEST_F(SandboxTest, UsersByNameAndByNumber) {
  CommandSpec command = shell("id -u; id -g; id -G; echo $USER $HOME");
  command.user = "nobody";
  EXPECT_EQ(printed_by(command), "65534\n65534\n65534\nnobody /nonexistent\n");
  command.user = "12345";
  EXPECT_EQ(printed_by(command), "12345\n12345\n12345\n12345 /\n");
  command.user = "65534:54321";
  EXPECT_EQ(printed_by(command), "65534\n54321\n54321\nnobody /nonexistent\n");
  command.user = "nobody:daemon";
  EXPECT_EQ(printed_by(command), "65534\n1\n1\nnobody /nonexistent\n");
}

TEST_F(SandboxTest, SupplementaryGroupsComeFromInside) {
  SandboxSpec with_group = spec();
  with_group.populate_uppers = [](const auto& trees) -> Status {
    fs::create_directories(trees[0].second / "etc");
    BATON_CHECK(sys::write_file_durable(trees[0].second / "etc/group",
                                        "one:x:1001:x,worker\ntwo:x:1002:worker,y\n"));
    return sys::write_file_durable(trees[0].second / "etc/passwd",
                                   "worker:x:900:901::/home/worker:/bin/sh\n");
  };
  CommandSpec command = shell("id -u; id -G; echo $HOME");
  command.user = "worker";
  const Sandbox* sandbox = run(command, with_group);
  ASSERT_NE(sandbox, nullptr);
  await(*sandbox);
  EXPECT_EQ(output(*sandbox), "900\n901 1001 1002\n/home/worker\n");
}

TEST_F(SandboxTest, StandardInput) {
  EXPECT_EQ(printed_by(shell("wc -c; readlink /proc/self/fd/0")), "0\n/dev/null\n");
  CommandSpec command = shell("md5sum; wc -c </dev/stdin");
  command.user = "nobody";
  command.stdin_data = std::string(3'000'000, 'a') + '\0';
  EXPECT_EQ(printed_by(command).substr(32), "  -\n3000001\n");
}

TEST_F(SandboxTest, HasNothingOpenButTheThreeStreams) {
  EXPECT_EQ(printed_by(shell("for f in /proc/2/fd/*; do echo ${f##*/} $(readlink $f); done")),
            "0 /dev/null\n1 /.baton/io/output\n2 /.baton/io/output\n");
  EXPECT_EQ(printed_by(shell("ls /proc/$$/fd | tr '\\n' ' '")).substr(0, 6), "0 1 2 ");
}

TEST_F(SandboxTest, DoesNotInheritPid1sPriorityOrSignals) {
  const std::string text =
      printed_by(shell("cut -d' ' -f19,40,41 /proc/self/stat; cat /proc/self/oom_score_adj;"
                       "grep -E 'SigBlk|SigIgn|VmLck' /proc/self/status | tr -d ' \\t\\n'"));
  EXPECT_EQ(text, "0 0 0\n" + *sys::read_file("/proc/self/oom_score_adj") +
                      "VmLck:0kBSigBlk:0000000000000000SigIgn:0000000000000000");
}

// As in capabilities(7): the bounding set, which root executes everything with.
constexpr char kRights[] = "sed -nE 's/^(NoNewPrivs|Cap...):\\s*/\\1 /p' /proc/self/status";

std::string rights(sys::Capabilities set, bool new_privileges) {
  return fmt::format(
      "CapInh {0:016x}\nCapPrm {1:016x}\nCapEff {1:016x}\nCapBnd {1:016x}\nCapAmb {0:016x}\n"
      "NoNewPrivs {2}\n",
      0, set, new_privileges ? 0 : 1);
}

TEST_F(SandboxTest, RootInAJobHasWhatAJobMayHave) {
  EXPECT_EQ(printed_by(shell(kRights)),
            rights(sys::kJobCapabilities & sys::own_capabilities(), false));
  CommandSpec command = shell(kRights);
  command.capabilities |= sys::capability_set({CAP_SYS_NICE});
  command.new_privileges = true;
  EXPECT_EQ(printed_by(command), rights(command.capabilities & sys::own_capabilities(), true));
}

TEST_F(SandboxTest, NothingInAJobReachesPid1) {
  EXPECT_EQ(printed_by(shell("for f in root exe fd/0; do readlink /proc/1/$f || echo shut; done;"
                             "mknod /tmp/disk b 8 0 2>&1 || echo no device;"
                             "mount -t tmpfs x /mnt 2>/dev/null || echo no mount;"
                             "hostname other 2>/dev/null || echo no name")),
            "shut\nshut\nshut\nmknod: /tmp/disk: Operation not permitted\nno device\nno mount\nno "
            "name\n");
}

TEST_F(SandboxTest, TheRootOfTheTreeHasNoCapability) {
  EXPECT_EQ(printed_by(shell("grep -cE 'Cap(Inh|Prm|Eff|Amb):.*0000000000000000' "
                             "/proc/2/status")),
            "4\n");
}

TEST_F(SandboxTest, SetUserIdProgramsWorkWhenAskedFor) {
  const auto with_program = [this] {
    SandboxSpec with = spec();
    with.populate_uppers = [](const auto& trees) -> Status {
      std::error_code error;
      fs::copy_file("/usr/bin/id", trees[0].second / "suid-id", error);
      if (error) return fail(ErrorCode::Internal, error.message());
      if (::chmod((trees[0].second / "suid-id").c_str(), 04755) != 0) return fail_errno("chmod");
      return {};
    };
    return with;
  };
  for (const bool asked : {false, true}) {
    CommandSpec command = shell("/suid-id -u");
    command.user = "nobody";
    command.new_privileges = asked;
    const Sandbox* sandbox = run(command, with_program());
    ASSERT_NE(sandbox, nullptr);
    await(*sandbox);
    EXPECT_EQ(output(*sandbox), asked ? "0\n" : "65534\n");
  }
}

struct Unusable {
  std::string program;
  ErrorCode code;
  std::string message;
};

TEST_F(SandboxTest, SaysWhyACommandCannotBeRun) {
  const std::vector<Unusable> cases{
      {"/no/such/command", ErrorCode::NotFound,
       "start command: /no/such/command: No such file or directory"},
      {"no-such-command", ErrorCode::NotFound,
       "start command: no-such-command: No such file or directory"},
      {"/etc/passwd", ErrorCode::InvalidArgument, "start command: /etc/passwd: Permission denied"},
      {"/noexec", ErrorCode::InvalidArgument, "start command: /noexec: Exec format error"}};
  for (const Unusable& unusable : cases) {
    SandboxSpec with_file = spec();
    with_file.populate_uppers = [](const auto& trees) {
      return sys::write_file_durable(trees[0].second / "noexec", "no program\n", 0755);
    };
    Sandbox* sandbox = create(with_file);
    ASSERT_NE(sandbox, nullptr);
    CommandSpec command;
    command.argv = {unusable.program};
    const Status started = sandbox->start(command);
    ASSERT_FALSE(started);
    EXPECT_EQ(started.error().code(), unusable.code);
    EXPECT_EQ(started.error().message(), unusable.message);
    EXPECT_FALSE(sandbox->exit()) << "it is left to be killed";
    EXPECT_TRUE(sandbox->kill());
  }
}

TEST_F(SandboxTest, RefusesCommandsThatMakeNoSense) {
  Sandbox* sandbox = create(spec());
  ASSERT_NE(sandbox, nullptr);
  const auto refused = [&](CommandSpec command, ErrorCode code, const std::string& message) {
    const Status started = sandbox->start(command);
    ASSERT_FALSE(started) << message;
    EXPECT_EQ(started.error().code(), code) << started.error().message();
    EXPECT_EQ(started.error().message(), message);
  };
  CommandSpec command = shell("true");
  refused({}, ErrorCode::InvalidArgument, "the command is empty");
  command.user = "nobody-knows";
  refused(command, ErrorCode::InvalidArgument, "no such user in the sandbox: nobody-knows");
  command.user = "nobody:nogroup-knows";
  refused(command, ErrorCode::InvalidArgument, "no such group in the sandbox: nogroup-knows");
  command.user = "";
  command.workdir = "/no/such/place";
  refused(command, ErrorCode::NotFound,
          "working directory /no/such/place: No such file or directory");
  command.workdir = "relative";
  refused(command, ErrorCode::InvalidArgument,
          "working directory \"relative\" is not an absolute path");
  command.workdir = "/";
  command.argv.push_back(std::string("a\0b", 3));
  refused(command, ErrorCode::InvalidArgument, "an argument contains a NUL byte");
  // None of this spoilt the sandbox.
  const Status started = sandbox->start(shell("exit 3"));
  ASSERT_TRUE(started) << started.error().message();
  EXPECT_EQ(await(*sandbox).code, 3);
}

TEST_F(SandboxTest, ADaemonKeepsTheJobAliveAndTheCommandsCodeStays) {
  Sandbox* sandbox = run(shell(
      "(setsid sh -c 'while [ ! -e /tmp/go ]; do sleep 0.02; done; echo daemon done' &) ; exit 5"));
  ASSERT_NE(sandbox, nullptr);
  ::usleep(200'000);
  EXPECT_FALSE(sandbox->exit()) << "its daemon still runs";
  const auto processes = sandbox->processes();
  ASSERT_TRUE(processes);
  EXPECT_GE(processes->size(), 2u);
  EXPECT_EQ(processes->front().first, sandbox->root_pid_inner());
  EXPECT_TRUE(sys::write_file_durable(
      fs::path("/proc") / std::to_string(sandbox->init_pid()) / "root/tmp/go", ""));
  EXPECT_EQ(await(*sandbox).code, 5);
  EXPECT_EQ(output(*sandbox), "daemon done\n");
}

TEST_F(SandboxTest, OrphansAreReaped) {
  EXPECT_EQ(printed_by(shell("for i in 1 2 3 4 5 6 7 8 9; do (true & ) ; done; sleep 0.2;"
                             "cat /proc/[0-9]*/stat | grep -c ' Z '"),
                       1),
            "0\n");
}

TEST_F(SandboxTest, SignalsReachTheCommandOnly) {
  Sandbox* sandbox =
      run(shell("trap 'echo got it; exit 4' TERM; (trap '' TERM; sleep 0.1) ;"
                "echo ready; while :; do sleep 0.02; done"));
  ASSERT_NE(sandbox, nullptr);
  await_output(*sandbox, "ready");
  EXPECT_TRUE(sandbox->signal(SIGTERM));
  EXPECT_EQ(await(*sandbox).code, 4);
  EXPECT_EQ(sandbox->signal(9).error().message(), "the sandbox has ended");
}

TEST_F(SandboxTest, SignalAfterTheCommandsEndSaysSo) {
  Sandbox* sandbox = create(spec());
  ASSERT_NE(sandbox, nullptr);
  EXPECT_EQ(sandbox->signal(SIGTERM).error().message(), "no command runs yet");
  ASSERT_TRUE(sandbox->start(shell("(setsid sleep 100 &); exit 0")));
  Status status;
  for (int i = 0; i < 500 && status; ++i, ::usleep(10'000)) status = sandbox->signal(SIGCONT);
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code(), ErrorCode::FailedPrecondition);
  EXPECT_EQ(status.error().message(), "the command has ended");
  EXPECT_EQ(sandbox->signal(0).error().code(), ErrorCode::InvalidArgument);
}

}  // namespace
}  // namespace baton::agent
