// What `baton run` makes of its words.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "cli/cli.h"
#include "cli/job_spec.h"

namespace baton::cli {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using Words = std::vector<std::string>;

struct Split {
  Words rest;
  Words passed;
};

Split split(Words words) {
  Program program;
  add_commands(program);
  Split result;
  result.passed = split_passthrough(program.app(), words);
  result.rest = std::move(words);
  return result;
}

TEST(Passthrough, StartsAtTheFirstWordThatIsNoOption) {
  const auto got = split({"run", "--name", "x", "-d", "sleep", "--detach", "-1", "--", "end"});
  EXPECT_THAT(got.rest, ElementsAre("run", "--name", "x", "-d"));
  EXPECT_THAT(got.passed, ElementsAre("sleep", "--detach", "-1", "--", "end"));
}

TEST(Passthrough, StartsAfterTheFirstDoubleDash) {
  const auto got = split({"run", "--interval=1s", "--", "--odd-name", "--", "x"});
  EXPECT_THAT(got.rest, ElementsAre("run", "--interval=1s"));
  EXPECT_THAT(got.passed, ElementsAre("--odd-name", "--", "x"));
}

TEST(Passthrough, KeepsEveryByte) {
  const Words nasty = {"it's", "a \"quote\"", "new\nline", "",  "[a,b]",
                       "{x}",  "\xff\xfe",    "-x",        "%d"};
  Words words = {"run", "-eA=b", "-e", "C=run", "--"};
  words.insert(words.end(), nasty.begin(), nasty.end());
  EXPECT_EQ(split(words).passed, nasty);
}

TEST(Passthrough, KnowsOptionsBeforeTheCommandWord) {
  const auto got = split({"--controller", "run", "run", "true"});
  EXPECT_THAT(got.rest, ElementsAre("--controller", "run", "run"));
  EXPECT_THAT(got.passed, ElementsAre("true"));
}

TEST(Passthrough, IsForRunOnly) {
  EXPECT_THAT(split({"inspect", "run", "x"}).passed, IsEmpty());
  EXPECT_THAT(split({"run"}).passed, IsEmpty());
  EXPECT_THAT(split({}).passed, IsEmpty());
}

Result<v1::JobSpec> spec(const SpecOptions& options) { return make_spec(options, {"true"}); }

TEST(Spec, HasUsualDefaults) {
  const auto made = spec({});
  ASSERT_TRUE(made) << made.error().message();
  EXPECT_EQ(made->interval_ms(), 5'000u);
  EXPECT_EQ(made->workdir(), std::filesystem::current_path());
  EXPECT_EQ(made->env().size(), 2u);
  EXPECT_THAT(made->env().at("PATH"), HasSubstr("/usr/bin"));
  EXPECT_EQ(made->restart(), v1::RESTART_NEVER);
  EXPECT_EQ(spec({.rootfs = "/srv/root"})->workdir(), "/");
}

TEST(Spec, TakesEveryOption) {
  ::setenv("HANDED_ON", "yes", 1);
  const auto made = spec({.name = "n",
                          .interval = "250ms",
                          .node = "node-2",
                          .env = {"A=b=c 'd'\n", "HANDED_ON", "NOT_SET_ANYWHERE"},
                          .workdir = "/w",
                          .user = "nobody:users",
                          .volumes = {"/a:/b", "/c:/d:ro"},
                          .memory = "64MiB",
                          .cpus = "1.5",
                          .restart = "checkpoint:7",
                          .policy = {"cpu_threshold=0.5", "migrate_on_overload=false"}});
  ASSERT_TRUE(made) << made.error().message();
  EXPECT_EQ(made->interval_ms(), 250u);
  EXPECT_EQ(made->env().at("A"), "b=c 'd'\n");
  EXPECT_EQ(made->env().at("HANDED_ON"), "yes");
  EXPECT_FALSE(made->env().contains("NOT_SET_ANYWHERE"));
  EXPECT_EQ(made->volumes(0).sandbox_path(), "/b");
  EXPECT_FALSE(made->volumes(0).read_only());
  EXPECT_TRUE(made->volumes(1).read_only());
  EXPECT_EQ(made->memory_bytes(), 64u << 20);
  EXPECT_EQ(made->cpus(), 1.5);
  EXPECT_EQ(made->restart(), v1::RESTART_CHECKPOINT);
  EXPECT_EQ(made->restart_limit(), 7u);
  EXPECT_EQ(made->policy().cpu_threshold(), 0.5);
  EXPECT_TRUE(made->policy().has_migrate_on_overload());
  EXPECT_FALSE(made->policy().has_cooldown_ms());
}

TEST(Spec, NoCheckpointMeansIntervalZero) {
  EXPECT_EQ(spec({.no_checkpoint = true})->interval_ms(), 0u);
  EXPECT_FALSE(spec({.interval = "1s", .no_checkpoint = true}));
}

TEST(Spec, NamesWhatIsWrong) {
  const std::vector<std::pair<SpecOptions, std::string>> wrong = {
      {{.interval = "0"}, "interval"},
      {{.interval = "-1"}, "interval"},
      {{.interval = "soon"}, "soon"},
      {{.env = {"=x"}}, "--env"},
      {{.workdir = "rel"}, "rel"},
      {{.rootfs = "rel"}, "rel"},
      {{.volumes = {"relative:/x"}}, "relative"},
      {{.volumes = {"/x"}}, "/x"},
      {{.volumes = {"/a:/b:rx"}}, "rx"},
      {{.memory = "lots"}, "lots"},
      {{.memory = "0"}, "--memory"},
      {{.cpus = "-2"}, "--cpu"},
      {{.cpus = "many"}, "many"},
      {{.restart = "sometimes"}, "sometimes"},
      {{.restart = "scratch:x"}, "x"},
      {{.stdin_file = "/no/such/file"}, "/no/such/file"},
      {{.policy = {"bogus=1"}}, "bogus"},
      {{.policy = {"cpu_threshold=high"}}, "high"},
  };
  for (const auto& [options, says] : wrong) {
    const auto made = spec(options);
    ASSERT_FALSE(made) << says;
    EXPECT_EQ(made.error().code() == ErrorCode::InvalidArgument ||
                  made.error().code() == ErrorCode::NotFound,
              true);
    EXPECT_THAT(made.error().message(), HasSubstr(says));
  }
  EXPECT_FALSE(make_spec({}, {}));
  EXPECT_FALSE(make_spec({}, {""}));
}

TEST(Spec, ReadsStandardInput) {
  const auto path =
      std::filesystem::temp_directory_path() / ("baton-cli-test-" + std::to_string(::getpid()));
  const std::string data("line\0\xff\n", 7);
  std::ofstream(path, std::ios::binary) << data;
  const auto made = spec({.stdin_file = path});
  std::filesystem::remove(path);
  ASSERT_TRUE(made) << made.error().message();
  EXPECT_EQ(made->stdin_data(), data);
}

TEST(Usage, ErrorsExitWithTwo) {
  for (Words words :
       {Words{"nonsense"}, {"run"}, {"run", "--interval", "0", "true"}, {"ps", "--bogus"}, {}}) {
    Program program;
    add_commands(program);
    std::vector<char*> argv = {const_cast<char*>("baton")};
    for (auto& word : words) argv.push_back(word.data());
    EXPECT_EQ(program.run(static_cast<int>(argv.size()), argv.data()), kExitUsage)
        << (words.empty() ? "" : words.front());
  }
}

}  // namespace
}  // namespace baton::cli
